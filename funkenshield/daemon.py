"""The daemon: everything built from a Config, started, reloaded, drained and stopped.

    bind -> drop privileges -> build -> serve ... SIGHUP: configure ... SIGTERM: drain -> stop

It knows the order of things. What each of them does is its own business.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import lru_cache, partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from . import upgrade
from .admin import commands, control
from .admin.process import (
    Priority,
    allow_descriptors,
    allow_nice,
    connection_limit,
    drop_privileges,
    find_user,
    notify,
    signals_handled,
)
from .admin.stats import Stats
from .cache import hugepages, snapshot
from .cache._nsec_cache import NsecCache
from .cache.expiry import Expiry
from .cluster.node import Credentials, Node
from .cluster.purges import Message
from .config import DEFAULT_GROUP, RESTART, Config, Endpoint
from .config.guard import packed
from .config.kernel_answers import against_all
from .core import early_signals, logs, machine
from .core._clock import Clock
from .core.files import Watched
from .errors import ConfigError, FunkenShieldError
from .events.sinks import Outputs, Sinks
from .forward import chaos, discovery
from .forward._miss_path import MissPath
from .forward.forwarder import Forwarder
from .forward.loop_detection import itself_at, refuse_itself
from .policy import cookie_secrets
from .policy.dynblocks import Blocks
from .quic.process import QuicFront
from .reload import Reloaded, Reloads, Warn
from .rules.engine import PreparedRules, RuleEngine
from .server import sockets
from .server.http import HttpListeners
from .server.inherited import Inherited
from .server.listeners import Listeners
from .server.tcp import TcpServer
from .server.tls import TlsListeners
from .server.udp import UdpServer
from .upstream.hosts import Hosts
from .upstream.pool import Upstreams
from .wire.names import name_from_wire, name_to_wire
from .zones import settings
from .zones.soa_watch import Watchers

if TYPE_CHECKING:
    from .web.http import Door
    from .web.site import Site

log = logging.getLogger(__name__)

HOUSEKEEPING = 1.0  # seconds
GUARDING = 0.1  # seconds between two looks for who must be blocked
GRACE = 1.0  # seconds beyond its deadline, in which an answer may be late
DENIED = 8  # of the cache's memory, one part in so many is for what is known not to exist


class Daemon:
    """A shield: listeners, workers, cache and forwarder, for as long as `run` runs.

    `reread` returns the configuration anew when a reload is asked for, and raises ConfigError where it
    is wrong. Memory ownership: all sockets bound here are closed here, after the workers have ended.
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config] | None = None,
        file: Watched | None = None,
        clock: Clock | None = None,
        predecessor: upgrade.Predecessor | None = None,
    ) -> None:
        logs.set_up(config.log.level, config.log.format)
        self.config = config = hugepages.fitted(config)
        self.clock = clock or (predecessor.clock if predecessor else Clock())
        self._predecessor = predecessor
        self._serves = False  # until it does, it may still take over from another one
        self._left = False  # another process serves in our place
        self._upgrading: asyncio.Task[None] | None = None  # because a signal asked for it
        self._reread, self._file = reread, file
        self.reloads = Reloads(self._count_reload)
        self.log_level: str | None = None  # that an operator set, whatever the configuration says
        self._ready = False
        self._answered = 0.0  # by then, seconds of the clock, whatever has come by now
        self._stopping, self._hurried = asyncio.Event(), asyncio.Event()
        self._servers: list[asyncio.Server] = []  # on the control socket
        self._door: Door | None = None  # to the metrics and the page
        self._failure: BaseException | None = None  # of what must go on for ever
        self._snapshot = Path(config.cache.snapshot) if config.cache.snapshot else None
        self._secrets: cookie_secrets.CookieSecrets | None = None
        with contextlib.ExitStack() as bound:
            self._bind(bound)
            try:
                self._build(bound)
            except (MemoryError, OSError, ValueError) as error:
                raise FunkenShieldError(f"cannot start: {error}") from None
            self.configure(config)
            self._bound = bound.pop_all()

    # ---------------------------------------------------------------- build

    def _bind(self, bound: contextlib.ExitStack) -> None:
        """Bind all sockets that clients and operators come to; what that takes root for ends here."""
        config = self.config
        inherited = self._predecessor.inherited if self._predecessor else Inherited.from_environment()
        bound.callback(inherited.close)
        self._count = self._predecessor.workers if self._predecessor else config.workers or machine.cores()
        if config.workers not in (0, self._count):
            log.warning(
                "workers: the new value takes effect after a restart: sockets with what waits in them stay %d",
                self._count,
            )
        self._credentials = Credentials(config.cluster) if config.cluster.store else None
        # The nodes' secret may be another one since the process before us has started.
        known = self._credentials or self._predecessor
        secret = known.ticket_secret if known else b""
        self._tls, self._http = TlsListeners(config, secret=secret), HttpListeners()
        self._tls_over_quic = TlsListeners(config, over_quic=True, secret=self._tls.secret)
        self.listeners = Listeners(self._count)
        bound.callback(self.listeners.close)
        self.listeners.inherit(inherited, config)
        if self._predecessor:
            self.listeners.interfaces.wait()
        self.listeners.attach(self.listeners.bind(config))
        self._web_socket = self._bind_web(bound, inherited)
        self._site = self._make_site(config)
        self._control = _bind_control(config, inherited)
        inherited.close()
        owned = []
        if self._control is not None:
            owned = [Path(config.control.socket)]
            bound.enter_context(self._control)
            bound.callback(self._unbind, *owned)
        if config.user:
            user = find_user(config.user)
            if self._credentials is None:
                cookie_secrets.keep(config.cookies, user.pw_uid, user.pw_gid)
            drop_privileges(config.user, *owned)

    def _unbind(self, path: Path) -> None:
        if not self._left and (self._predecessor is None or self._ready):  # or else it is still another's
            control.unbind(path)

    def _bind_web(self, bound: contextlib.ExitStack, inherited: Inherited) -> socket.socket | None:
        endpoint = self.config.web_endpoint
        if endpoint is None:
            return None
        taken = inherited.take(endpoint, socket.SOCK_STREAM)
        return bound.enter_context(taken[0] if taken else _bind_http(endpoint, self.config))

    def _make_site(self, config: Config) -> "Site | None":
        """Return who answers Prometheus and browsers; the modules are loaded only where that is wanted."""
        if config.web_endpoint is None:
            return None
        try:
            from .web.site import Site
        except ImportError as error:  # files that only root may read
            raise ConfigError(f"metrics.listen takes a restart: {error}") from None
        probes = {"/live": self.is_alive, "/ready": self.is_serving, "/healthz": self.is_serving}
        return Site(self, self._handle, probes, web=config.web)

    def _build(self, bound: contextlib.ExitStack) -> None:
        """Make everything that needs no privileges, each with what it needs."""
        config, seconds = self.config, self.clock.seconds
        denied = config.cache.memory // DENIED if settings.needs_nsec_cache(config) else 0
        open_cache = self._predecessor.cache if self._predecessor else upgrade.open_cache
        huge_pages = hugepages.is_large(config.cache.memory)
        self.cache, memory_file = open_cache(config.cache.memory - denied, self.clock, huge_pages=huge_pages)
        if memory_file >= 0:
            bound.callback(os.close, memory_file)
        self.nsec_cache = NsecCache(denied)
        self.miss_path = MissPath(self.cache, config.forward.max_outstanding, config.guard.memory)
        self.blocks = Blocks(self.miss_path.settings_writer.guard, seconds)
        self.udp = UdpServer(self.cache, self.miss_path, self._count, self.listeners.interfaces.take)
        self.upstreams = Upstreams(self.miss_path.sockets, self.miss_path.upstreams, self.clock, self.miss_path.abandon)
        self.hosts = Hosts(seconds, self._follow_hosts, lambda each: itself_at(each, self.config.endpoints))
        self.watchers = Watchers(self.upstreams.ask, self._changed, seconds)
        self.tcp = TcpServer(self.cache, self.miss_path, self._count)
        self.listeners.serve(self.udp, self.tcp, self.miss_path)
        self._priority = Priority(seconds)
        retry_secret = self._predecessor.retry_secret if self._predecessor else b""
        self.quic = QuicFront(self.tcp.workers[0], self._priority.own, retry_secret)
        self.rules = RuleEngine(self.miss_path.rules, self._dispatch)
        self.sinks = Sinks(self.miss_path.recorder)
        self.forwarder = Forwarder(self.miss_path, self.upstreams, self.rules.executor, self.watchers.poll_now)
        self.node = self._make_node()
        self.stats = Stats(
            (*self.udp.workers, self.udp.kernel_answers), self.cache, self.nsec_cache, self.miss_path, self.upstreams,
            self.forwarder, self.tcp, self.rules, self.blocks, config.cache.memory, self.clock, self.listeners,
            (self._tls, self._tls_over_quic), self.hosts, self.quic, self.sinks, self.node,
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []
        self._parts = upgrade.Parts(
            config=lambda: self.config, cache=self.cache, memory_file=memory_file, listeners=self.listeners,
            sockets=self._all_sockets, udp=self.udp, tcp=self.tcp, forwarder=self.forwarder, blocks=self.blocks,
            watchers=self.watchers, priority=self._priority, node=self.node,
            set_by_command=partial(commands.set_by_command, self),
            cookie_secrets=lambda: self._secrets.current() if self._secrets else (),
            ticket_secret=self._tls.secret, retry_secret=self.quic.retry_secret, serves=lambda: self._serves,
            is_stopping=self._stopping.is_set, remaining=self._remaining,
            stop_tasks=self._stop_tasks, start_tasks=self._start_tasks, leave=self._leave,
            converse=partial(control.converse, handle=self._handle, hand_over=self._hand_over),
        )  # fmt: skip
        self.successors = upgrade.Successors(self._parts)

    def _make_node(self) -> Node | None:
        """Return what we are of a cluster, if there is one."""
        if self._credentials is None:
            return None
        node = Node(
            self.config.cluster, self._credentials, self.miss_path, self._purge_as_told, self.blocks, self._serials_of,
            self._dispatch, wall=lambda: time.time() + self.clock.origin[1] / 1e9,
        )  # fmt: skip
        self.forwarder.share_with(node.run)
        return node

    def _remaining(self) -> int:
        """Return how many connections clients have, or whom we replaced may pass on; those of the front are none."""
        relays = sum(bool(each.quic) for each in self.listeners.open)
        more = self._predecessor is not None and self._predecessor.is_there
        return max(self.tcp.connections - relays, 0) + self.quic.connections + more

    def _all_sockets(self) -> list[socket.socket]:
        """Return all sockets that are bound here."""
        return [*self.listeners.sockets, *(each for each in (self._control, self._web_socket) if each is not None)]

    def _dispatch(self) -> None:
        """Have what waits decided: rules ask the forwarder for that, which is made with them."""
        self.forwarder.dispatch()

    # ---------------------------------------------------------------- reload

    def configure(self, config: Config, prepared: PreparedRules | None = None) -> None:
        """Follow what can be changed while running: zones, upstreams, rules and limits; the cache stays.

        Rules take longest to read: they can be prepared before. Raises ConfigError, and changes nothing, for what is
        wrong in them, and BindError where a new listener cannot be bound.
        """
        refuse_itself(config)
        prepared = prepared or self.rules.prepare(config, self.listeners.numbered(config))
        shared = self._credentials.cookie_secrets if self._credentials else ()
        secrets = cookie_secrets.read(config.cookies, self._secrets, shared)
        encryption, over_quic = self._tls.prepare(config), self._tls_over_quic.prepare(config)
        sinks = self.sinks.prepare(config)
        listeners = self.listeners.bind(config)
        groups = self._ask(config)
        self.hosts.configure(config)
        logs.set_up(self.log_level or config.log.level, config.log.format)
        zones = settings.assign(self.cache.zones, config, groups)
        for number, how in settings.sharing(config, self.cache.zones).items() if self.node else ():
            self.miss_path.shared.configure(number, how)
        self.tcp.limits.set_server_names(self.rules.ids.server_name_table())
        self.forwarder.configure(config.forward, self.rules.activate(prepared, config, groups), zones.notifiers)
        self.blocks.configure(config.guard)
        self.tcp.configure(config.tcp, connection_limit(config), config.tls)
        self._tls.activate(encryption, self.cache)
        self._tls_over_quic.activate(over_quic, self.cache)
        self._http.configure(config, self.cache)
        for each in (self.config.forward, config.forward):  # what came before waits for as long as it could then
            answered = self.clock.seconds() + max(each.deadline, each.update_timeout) + GRACE
            self._answered = max(self._answered, answered)
        self.listeners.follow(listeners, self._tls.listeners, self._http.listeners, self._answered)
        self.quic.configure(config, self.listeners.open, self._tls_over_quic.listeners)
        outdated = zones.changed if config is not self.config else []  # there is nothing yet at the start
        for name in (*outdated, *(chaos.ZONES if config.chaos != self.config.chaos else ())):
            self._purge(name)
        self._consult(config)
        writer, allow, subnet = self.miss_path.settings_writer, config.forward.allow, config.client_subnet
        writer.set_any(config.minimal_any)
        writer.set_ignored(config.cache.skip_options)
        writer.set_idle(config.tcp.idle_timeout)
        writer.set_proxies(tuple(packed(config.proxy_protocol_from)))
        writer.set_allowed(
            transfers=packed(allow.transfers), updates=packed(allow.updates),
            notifies=packed((*allow.notifies, *chain.from_iterable(zones.notifiers.values()))),
        )  # fmt: skip
        writer.set_subnets(
            ipv4=subnet.ipv4_prefix_length if subnet.add else 0,
            ipv6=subnet.ipv6_prefix_length if subnet.add else 0,
            private=subnet.private,
        )
        self._name_peers(sinks)
        self.config, self._secrets = config, secrets
        self._set_cookies(secrets)

    def _ask(self, config: Config) -> dict[str, int]:
        """Ask the upstreams of a configuration, at the addresses that their hosts have now; return their groups."""
        resolved = config.resolved(self.hosts.addresses)
        return self.upstreams.configure(settings.groups(resolved), resolved)

    def _follow_hosts(self) -> None:
        """Ask upstreams where they are now: their hosts have other addresses."""
        try:
            self._ask(self.config)
        except ConfigError as error:
            log.error("new addresses of upstreams not in use: %s", error)
            return
        self.forwarder.follow_upstreams()
        self._name_peers()
        self._watch(self.config)

    def _name_peers(self, sinks: Outputs | None = None) -> None:
        """Say what listeners and upstreams are by their numbers, and, where that changes, who is told of queries."""
        listeners = {each.number: each.endpoint for each in self.listeners.open}
        upstreams = {each.number: (each.endpoint, each.member) for each in self.upstreams.all}
        self.sinks.configure(listeners, upstreams, self.rules.names, sinks)

    def _watch(self, config: Config) -> None:
        """Watch zones where their upstreams are; not before the cache is ours to purge."""
        if self._tasks:
            self.watchers.configure(settings.watched(config.resolved(self.hosts.addresses)))

    def _consult(self, config: Config) -> None:
        """Say who answers without an upstream, as things are now."""
        self.miss_path.consult(
            chaos=chaos.responder(config.chaos),
            discovery=discovery.responder([*self._tls.told(), *self._tls_over_quic.told()]),
            nsec_cache=self.nsec_cache,
        )

    def _set_cookies(self, secrets: cookie_secrets.CookieSecrets) -> None:
        cookies = self.config.cookies
        self.miss_path.settings_writer.set_cookies(
            secrets.current(), serve=cookies.mode == "serve", require=cookies.require
        )

    def reload(self) -> asyncio.Future[Reloaded] | None:
        """Have the configuration read again; a wrong one is reported, and the old one stays.

        Return what will tell what became of it; None where there is nothing to read, the daemon stops, or another
        process takes over.
        """
        if self.successors.is_switching:
            log.warning("an upgrade is in progress: ask for a reload again when that is over")
            return None
        return None if self._reread is None or self._stopping.is_set() else self.reloads.request()

    async def _count_reload(self, warn: Warn) -> None:
        """Apply a reload, and count whether that succeeded."""
        try:
            await self._apply_reload(warn)
        except Exception:
            self.stats.reload_failures += 1
            raise
        self.stats.reloads += 1

    async def _apply_reload(self, warn: Warn) -> None:
        """Read the configuration and its rules beside the work that goes on, and then change to them at once.

        What takes a restart is for `warn`. Raises ConfigError, or BindError, and changes nothing, for what is wrong.
        """
        assert self._reread is not None
        new = hugepages.fitted(await asyncio.to_thread(self._reread))
        for key in RESTART:
            if attrgetter(key)(new) != attrgetter(key)(self.config):
                warn(f"{key}: the new value takes effect after a restart")
        if settings.needs_nsec_cache(new) and not self.nsec_cache.limit:
            warn("aggressive NSEC and NXDOMAIN cut take effect after a restart, which allocates their memory")
        new, before = new.keeping(self.config), self.rules.rule_set
        await self.hosts.look_up_new(new)
        await asyncio.to_thread(self.sinks.examine, new)
        prepared = await asyncio.to_thread(self.rules.prepare, new, self.listeners.numbered(new))
        other_site = await self._other_site(new)
        try:
            await self.rules.set_up(prepared)
            self.configure(new, prepared)
        except Exception:
            if self.rules.rule_set is not prepared.rules:
                await self.rules.tear_down(prepared.rules)
            if other_site is not None and other_site[1] is not None:
                other_site[1].close()
            raise
        if other_site is not None:
            self._serve_site(*other_site)
        self._watch(new)
        await self.rules.tear_down(before)

    # ---------------------------------------------------------------- serve, drain, stop

    async def run(self) -> None:
        """Serve until `stop`, or until SIGTERM or SIGINT comes.

        What is started here, in this order, is stopped in the reverse order, also where the start fails or the task is
        cancelled, which is raised at the end. Raises FunkenShieldError if an internal error ended it.
        """
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as services:
            at_end, await_at_end = services.callback, services.push_async_callback
            services.enter_context(self._bound)
            self.sinks.start()
            at_end(self.sinks.close)
            await self.rules.set_up()
            await self.hosts.look_up_new(self.config)
            services.enter_context(
                signals_handled(
                    {
                        signal.SIGTERM: self.stop,
                        signal.SIGINT: self.stop,
                        signal.SIGHUP: self.reload,
                        signal.SIGUSR1: self.sinks.reopen,
                        signal.SIGUSR2: self._upgrade_by_signal,
                    }
                )
            )
            self.quic.load()
            await_at_end(self.quic.close)
            await self._fill_cache(services)
            await_at_end(asyncio.sleep, 0)  # connections close on the loop's next turn
            at_end(self.upstreams.close)
            loop.add_reader(self.miss_path.fileno(), self.forwarder.ready)
            at_end(loop.remove_reader, self.miss_path.fileno())
            await_at_end(self._save)
            self._start_tasks()
            await_at_end(self._stop_tasks)
            self._watch(self.config)
            at_end(self.watchers.close)
            if self._control is not None:
                self._servers.append(await control.serve(self._control, self._handle, self._hand_over))
            at_end(self._close_servers)
            at_end(self.tcp.stop)
            await_at_end(self.quic.close)
            await_at_end(self.rules.close)
            await_at_end(self._drain)
            await_at_end(self.reloads.close)
            at_end(self._close_site)
            self._serve_site(self._site, self._web_socket)
            self.tcp.start()
            at_end(self.tcp.stop_accepting)
            self.quic.start()
            at_end(lambda: self.quic.leave(handed_over=self._left))
            self.udp.start()
            at_end(self.udp.stop)
            if self._predecessor is not None:  # the sooner, the less has to wait
                self._predecessor.serve(self._parts)
            self._serves = True
            await self.quic.ready()
            self._tell_ready()
            if early_signals.came(signal.SIGHUP):
                self.reload()
            await self._stopping.wait()
            await self._tell_stopping()
        log.info("stopped")
        if self._failure:
            raise FunkenShieldError(f"stopped: internal error: {self._failure!r}")

    async def _other_site(self, config: Config) -> "tuple[Site | None, socket.socket | None] | None":
        """Return who is to serve the metrics and the page, and where; None: who does goes on.

        Raises ConfigError, or BindError.
        """
        endpoint, before = config.web_endpoint, self.config.web_endpoint
        if (endpoint, config.web) == (before, self.config.web):
            return None
        site = await asyncio.to_thread(self._make_site, config)
        if endpoint is None:
            return None, None
        if endpoint == before and self._web_socket is not None:
            return site, self._web_socket.dup()
        return site, _bind_http(endpoint, config)

    def _serve_site(self, site: "Site | None", listening: socket.socket | None) -> None:
        """Have the metrics and the page served there, and nowhere else."""
        self._close_site()
        self._site, self._web_socket = site, listening
        if site is not None and listening is not None:
            site.start()
            self._door = site.serve(listening)

    def _close_site(self) -> None:
        self._close_door()
        if self._site is not None:
            self._site.close()

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    def _start_tasks(self) -> None:
        works: list[Coroutine[Any, Any, None]] = [
            _every(lambda: HOUSEKEEPING, self._housekeeping),
            _every(lambda: GUARDING, self._guard),
            _every(lambda: self.upstreams.health_interval, self.upstreams.update_health),
            Expiry(self.cache, keeps_purges=lambda: self.successors.in_progress).run(),
        ]
        if self.node is not None and not self._left:
            works += self.node.works()
        if hugepages.is_large(self.config.cache.memory):
            works.append(hugepages.prepare(self.cache))
        if self._snapshot is not None and not self._left:
            interval = self.config.cache.snapshot_interval
            works.append(snapshot.keep(self.cache, self._snapshot, interval, self._origins))
        self._tasks = [asyncio.create_task(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stop, and fail, where something that must go on for ever did not: a service manager starts us again."""
        if not task.cancelled():
            self._failure = task.exception() or RuntimeError("a background task returned")
            log.error("stopping: internal error, a background task ended", exc_info=self._failure)
            self.stop()

    def _housekeeping(self) -> None:
        self.upstreams.housekeeping()
        self.forwarder.housekeeping()
        self.tcp.housekeeping()
        self.listeners.housekeeping(self.clock.seconds())
        self.listeners.interfaces.tell_whether_kernel_answers(against_all(self.config, blocked=len(self.blocks) > 0))
        self.hosts.housekeeping(self.upstreams.down)
        self.sinks.housekeeping()
        self.watchers.wake()
        self.rules.set_local_time()
        self.cache.epochs.reclaim()
        logs.summarize()
        if self.rules.files_changed() or (self._file and self._file.has_changed() and self.config.reload_on_change):
            self.reload()
        if self._tls.follow() | self._tls_over_quic.follow():
            self._consult(self.config)
        self.quic.follow()
        if self._secrets and self._secrets.refresh():
            self._set_cookies(self._secrets)

    def _guard(self) -> None:
        self.blocks.update()
        self._priority.follow(self.udp.dropped)

    def _tell_ready(self) -> None:
        upstreams = self.config.members(DEFAULT_GROUP)
        places = (", ".join(map(str, each)) for each in (self.config.all_listeners, upstreams))
        log.info("ready: listening on %s, forwarding to %s", *places)
        self._ready = True
        if self._predecessor is None:  # or else the service manager knows us only when that one has gone
            notify("READY=1")

    def is_alive(self) -> bool:
        """Tell whether all workers run, or end because they were told to."""
        return self._stopping.is_set() or self._hands_over() or (self.tcp.is_alive() and self.udp.is_alive())

    def is_serving(self) -> bool:
        """Tell whether all workers answer, here or in the process that takes over, until it is told to end."""
        return self._left or (not self._stopping.is_set() and self.is_alive())

    def _hands_over(self) -> bool:
        """Tell whether what comes waits for milliseconds, until one process has handed over to another."""
        return self.successors.is_switching or (self._predecessor is not None and not self._serves)

    def stop(self) -> None:
        """Have `run` drain and return, as a lame duck first, if that is configured; told twice, at once."""
        (self._hurried if self._stopping.is_set() else self._stopping).set()

    async def _tell_stopping(self) -> None:
        if not self._left:
            notify("STOPPING=1")
            if self.config.lame_duck:
                log.info("not ready any more; serving for %g s before draining", self.config.lame_duck)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurried.wait(), self.config.lame_duck)
        if self.config.share_addresses and not self._left:
            with contextlib.suppress(TimeoutError):
                until = self.clock.seconds() + self.config.drain_timeout + GRACE
                await asyncio.wait_for(self.listeners.leave(until), GRACE)
        log.info("draining")
        self.miss_path.settings_writer.set_idle(0)  # who asks is told to leave (RFC 7828 3.4)

    async def _drain(self) -> None:
        self.forwarder.ready()  # what the workers handed over last
        await self.successors.drain(self.config.drain_timeout)
        await self.forwarder.drain(self.config.drain_timeout)
        if self.node is not None and not self._left:
            await self.node.leave()

    # ---------------------------------------------------------------- another process takes over

    async def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what operators ask for; what changes something would be lost while another process takes over.

        Whether it is ready, a probe is told then, too: what comes waits, and is lost nowhere.
        """
        if self.successors.is_switching and request.get("command") != "ready":
            raise FunkenShieldError("an upgrade is in progress: ask again")
        return await commands.handle(self, request)

    async def _fill_cache(self, services: contextlib.AsyncExitStack) -> None:
        """Have the entries of the daemon that we replace, or those of a snapshot."""
        if self._predecessor is None:
            self._restore()
        else:
            services.callback(self._predecessor.close)
            await self._take_over(self._predecessor)

    async def _take_over(self, predecessor: upgrade.Predecessor) -> None:
        """Go on where the daemon stops that we replace, with what operators have made of it."""
        assert self._secrets is not None
        before = await predecessor.take_over(self._parts)
        for name in {zone.name for zone in self.config.zones} ^ before:
            self._purge(name_to_wire(name))
        self._secrets.resume(predecessor.cookie_secrets)
        self._set_cookies(self._secrets)
        for request in predecessor.commands:
            try:
                await commands.handle(self, request)
            except FunkenShieldError as error:
                log.warning("not as it was before the upgrade: %s", error)

    async def upgrade(self) -> int:
        """Have our command line started anew, and replace us; return the process ID, UpgradeError where it cannot."""
        return await self.successors.upgrade()

    def _upgrade_by_signal(self) -> None:
        """Have another process replace us; what becomes of that, the log says."""

        async def upgrade_quietly() -> None:
            with contextlib.suppress(FunkenShieldError):
                await self.upgrade()

        self._upgrading = asyncio.create_task(upgrade_quietly())

    async def _hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        await self.reloads.wait()
        await self.successors.hand_over(reader, writer, version)

    def _leave(self) -> None:
        """Leave to another process all that comes from now on."""
        self._left = True
        self.listeners.interfaces.close()
        self._close_servers()
        self.stop()

    def _close_servers(self) -> None:
        self._close_door()
        for server in self._servers:
            server.close()
        self._servers = []

    # ---------------------------------------------------------------- the cache, as its origins change

    def _restore(self) -> None:
        """Take up the entries of a snapshot, but for those of zones that are new, or no more."""
        if self._snapshot is None:
            return
        restored, origins = snapshot.read(self.cache, self._snapshot)
        if self.node is not None and restored:
            self.node.restored(*(origins.purges or ()))
        self.watchers.restore(origins.serials, entries=restored > 0)
        for name in {zone.name for zone in self.config.zones} ^ set(origins.zones) if restored else ():
            self._purge(name_to_wire(name))

    async def _save(self) -> None:
        is_ours = self._ready and not self._left and not self.successors.is_switching
        if self._snapshot is not None and is_ours:  # what was there before a start that failed stays
            await snapshot.write(self.cache, self._snapshot, self._origins())

    def _origins(self) -> snapshot.Origins:
        purges = self.node.carried_out() if self.node is not None else None
        return snapshot.Origins([zone.name for zone in self.config.zones], self.watchers.serials, purges)

    def _changed(self, zone: str, serial: int) -> None:
        """Purge a zone that is watched and has another serial, at all nodes; let another's entries expire."""
        watched = any(each.watch for each in self.config.zones if each.name == zone)
        self._purge(name_to_wire(zone), let_expire=not watched)
        if self.node is not None:
            self.node.tell_serial(name_to_wire(zone), serial, let_expire=not watched)

    def _serials_of(self, zone: bytes) -> frozenset[int] | None:
        return self.watchers.serials_of(_title(zone))

    def _purge_as_told(self, message: Message) -> None:
        """Purge what another node has purged; where that is a zone's new serial, ours is looked at as well."""
        try:
            qtype, let_expire = message.type, message.let_expire
            self.forget(self.cache.purge(message.wire, below=message.below, qtype=qtype, let_expire=let_expire))
        except (ValueError, OverflowError):  # no room, or what another version means
            self._purge(b"\0")
        if message.serial >= 0:
            self.watchers.poll_now(name_from_wire(message.wire))

    def _purge(self, name: bytes, *, let_expire: bool = False) -> None:
        """Take out a name and all below it; everything, where there is no room to note that."""
        try:
            self.cache.purge(name, below=True, let_expire=let_expire)
        except OverflowError:
            log.warning("too many purges at once: the whole cache is purged")
            name = b"\0"
            self.cache.purge(name, below=True)
        self.forget(name)

    def forget(self, name: bytes) -> Future[None] | None:
        """Forget a name elsewhere than in the cache, too; once what is returned ends, no crash brings it back."""
        self.nsec_cache.forget(name)
        return snapshot.begin_removal(self._snapshot) if self._snapshot is not None else None

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, by the names that `metrics` gives a meaning."""
        return self.stats.snapshot()


def _bind_control(config: Config, inherited: Inherited) -> socket.socket | None:
    """Return the control socket; None where there is to be none, or where there is no place for the default one."""
    if not config.control.socket:
        return None
    if taken := inherited.take(config.control.socket, socket.SOCK_STREAM):
        return taken[0]
    try:
        return control.bind(Path(config.control.socket))
    except control.UnavailableError as error:
        if "socket" in config.control.model_fields_set:
            raise
        log.warning("%s; running without a control socket: funkenshield stats, purge and block will not work", error)
        return None


_title = lru_cache(maxsize=4096)(name_from_wire)  # of zones, which misses ask for


def _bind_http(endpoint: Endpoint, config: Config) -> socket.socket:
    return sockets.bind_listening(endpoint, "HTTP", shared=config.share_addresses)


async def _every(seconds: Callable[[], float], work: Callable[[], None]) -> None:
    """Do something for ever, so many seconds after it was done."""
    while True:
        await asyncio.sleep(seconds())
        work()


def serve(
    config: Config, reread: Callable[[], Config] | None = None, file: Watched | None = None, *, take_over: bool = False,
    connected: int = -1,
) -> None:  # fmt: skip
    """Run a daemon until a signal ends it; it follows the file that it was read from.

    With `take_over`, it replaces the one that runs, if one does; `connected` is a descriptor of the connection to it,
    if there is one by now.
    """
    allow_descriptors(config)
    allow_nice()

    predecessor = upgrade.Predecessor.find(config.control.socket, connected) if take_over else None

    async def main() -> None:
        daemon = Daemon(config, reread, file, predecessor=predecessor)
        gc.freeze()  # what there is by now stays: no collection looks at it again, which took tens of milliseconds
        await daemon.run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        logs.flush()
