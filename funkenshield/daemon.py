"""The daemon: everything built from a Config, started, reloaded, drained and stopped.

    bind -> drop privileges -> build -> serve ... SIGHUP: configure ... SIGTERM: drain -> stop

It knows the order of things. What each of them does is its own business.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import uvloop

from .admin import control
from .admin.process import allow_descriptors, allow_nice, drop_privileges, notify
from .admin.purge import purge
from .admin.stats import Stats
from .cache import hugepages, snapshot
from .cache._export import Shelf
from .cache._nsec_cache import Denials
from .cache._store import Cache
from .cache.expiry import Expiry
from .config import DEFAULT_GROUP, RESTART, Config
from .config.guard import Refusal, packed
from .core import early_signals, logs, machine
from .core._clock import Clock
from .errors import ConfigError, FunkenShieldError
from .forward import chaos, loop
from .forward._inflight import Inflight
from .forward.uncached import Forwarder
from .policy.cookie_secrets import CookieSecrets, keep_secret
from .policy.dynblocks import Blocks
from .rules.engine import FunkenSturm, Prepared
from .server import sockets
from .server._udp_worker import Worker
from .server.tcp import TcpServer
from .upstream.pool import Upstreams
from .wire.names import name_from_wire, name_to_wire
from .zones import settings
from .zones.soa_watch import PollInterval, WatchedZone, Watchers

log = logging.getLogger(__name__)
limited = logs.RateLimited(log)

HOUSEKEEPING = 1.0  # seconds
DENIED = 8  # of the cache's memory, one part in so many is for what is known not to exist
ON_NOTIFY = PollInterval(math.inf, 0.0)
NICE, CALM = 10, 60.0  # of the control thread under a flood of misses, and until so many seconds after it
GUARDING = 0.1  # seconds between two looks for who must be shut out


class Daemon:
    """A shield: listeners, workers, cache and forwarder, for as long as `run` runs.

    `reread` returns the configuration anew when a reload is asked for, and raises ConfigError where it
    is wrong. Memory ownership: all sockets bound here are closed here, after the workers have ended.
    """

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None, clock: Clock | None = None) -> None:
        logs.set_up(config.log.level, config.log.format)
        config = hugepages.fitted(config)
        self.config = config
        self.clock = clock or Clock()
        self._reloading: asyncio.Task[None] | None = None
        self._folded = False  # within the last second, it was said that a purge became one of more
        self._again = False  # another reload was asked for while one goes on
        self._nice = self._niced = os.getpriority(os.PRIO_PROCESS, 0)
        self._dropped, self._calm_at = 0, 0.0
        self._for_nobody = 0
        self._threads: list[threading.Thread] = []  # of the workers, once they were started
        self._reread = reread
        self._secrets: CookieSecrets | None = None
        self._stopping = asyncio.Event()
        count = config.workers or machine.cores()
        with contextlib.ExitStack() as undo:
            sockets.probe(config.listen, tcp=config.tcp.max_connections > 0)
            self._udp = [
                [undo.enter_context(each) for each in sockets.bind_udp(endpoint, count, config.udp.receive_buffer)]
                for endpoint in config.listen
            ]
            self._tcp = [
                undo.enter_context(sockets.bind_tcp(endpoint, shared=sockets.overlaps(endpoint, config.listen)))
                for endpoint in config.listen
                if config.tcp.max_connections
            ]
            self._scraped = self._serve_metrics()
            if self._scraped is not None:
                undo.enter_context(self._scraped[0])
            self._control = _bind_control(config)
            controlled = Path(config.control.socket) if self._control is not None else None
            if self._control is not None and controlled is not None:
                undo.enter_context(self._control)
                undo.callback(control.unbind, controlled)
            if config.user:
                drop_privileges(config.user, *filter(None, [controlled]), *self._kept_secret(config))
            try:
                self._build(config, count)
            except (MemoryError, OSError, ValueError) as error:
                raise FunkenShieldError(f"cannot start: {error}") from None
            self.configure(config)
            self._close = undo.pop_all()

    def _build(self, config: Config, count: int) -> None:
        """Make everything that needs no privileges: cache, workers, upstreams, TCP."""
        denied = config.cache.memory // DENIED if settings.deny(config) else 0
        self.cache = Cache(config.cache.memory - denied, self.clock, huge_pages=hugepages.is_large(config.cache.memory))
        self.denials = Denials(denied)
        self.inflight = Inflight(self.cache, config.forward.max_outstanding, config.guard.memory)
        self.workers = [Worker(self.cache, self.inflight) for _ in range(count)]
        for group in self._udp:
            for worker, opened in zip(self.workers, group, strict=True):
                worker.listen(opened.fileno(), group[0].fileno())
        self.upstreams = Upstreams(self.inflight.sockets, self.inflight.upstreams, self.clock)
        self.forwarder = Forwarder(self.inflight, self.upstreams, config.forward)
        self.tcp = TcpServer(self.inflight, self.forwarder.dispatch, config.tcp)
        self.forwarder.write_to(self.tcp)
        self.sturm = FunkenSturm(self.inflight.rules, self.forwarder.dispatch)
        self.forwarder.leave_to(self.sturm.decider)
        self.blocks = Blocks(self.inflight.settings_writer.guard, self.clock.seconds)
        self.forwarder.notified = self._notified
        self.watchers = Watchers(self.forwarder.ask, self._changed, self.clock.seconds)
        self.stats = Stats(
            self.workers, self.cache, self.denials, self.inflight, self.upstreams, self.forwarder, self.tcp, self.sturm,
            self.blocks, config.cache.memory, self.clock,
        )  # fmt: skip

    def _kept_secret(self, config: Config) -> list[Path]:
        """Make the file of the cookies' secret that nobody named, while we may; return it, if it is new."""
        path = Path(config.cookies.secret_file)
        with contextlib.suppress(OSError):  # which is told when it is read
            if "secret_file" not in config.cookies.model_fields_set and config.cookies.mode == "serve":
                return [path] if keep_secret(path) else []
        return []

    def _serve_metrics(self) -> tuple[socket.socket, Callable[[], asyncio.Protocol]] | None:
        """Return where Prometheus asks, and who answers; the modules are loaded only where that is wanted."""
        if self.config.metrics.listen is None:
            return None
        from .admin import metrics, scrape

        return (
            sockets.bind_tcp(self.config.metrics.listen, "HTTP"),
            scrape.Scraped(partial(metrics.render, self.snapshot), self.is_serving).protocol,
        )

    def configure(self, config: Config, prepared: Prepared | None = None) -> None:
        """Follow what can be changed while running: zones, upstreams, rules and limits; the cache stays.

        Rules take longest to read: they can be prepared before. Raises ConfigError, and changes nothing, for what is
        wrong in them.
        """
        loop.refuse_itself(config)
        prepared = prepared or self.sturm.prepare(config)
        path = (
            Path(config.cookies.secret_file) if config.cookies.secret_file and config.cookies.mode == "serve" else None
        )
        kept = path is None or "secret_file" not in config.cookies.model_fields_set
        if self._secrets is None or self._secrets.path != path or not kept:  # those in a file may be others by now
            secrets = CookieSecrets(path, kept=kept)
        else:
            secrets = self._secrets
        numbers = self.upstreams.configure(settings.groups(config), config)
        logs.set_up(config.log.level, config.log.format)
        self._assigned = settings.assign(self.cache.zones, config, numbers)
        self.forwarder.groups = self.sturm.activate(prepared, config, numbers)
        self.blocks.configure(config.guard)
        self.forwarder.configure(config.forward)
        sources = [str(each.section.source) for each in self.upstreams.all if each.section.source]
        self.forwarder.loops.configure([*(each.endpoint.host for each in self.upstreams.all), *sources])
        self.forwarder.notifiers = self._assigned.notifiers
        self.tcp.settings = config.tcp
        outdated = self._assigned.changed if config is not self.config else []  # there is nothing yet at the start
        for name in (*outdated, *(chaos.ZONES if config.chaos != self.config.chaos else ())):
            self._purge(name)
        self.inflight.consult(chaos=self._identity(config), nsec_cache=self.denials)
        self.inflight.settings_writer.set_any(config.minimal_any)
        self.inflight.settings_writer.set_ignored(config.cache.skip_options)
        self.inflight.settings_writer.set_idle(config.tcp.idle_timeout)
        self.inflight.settings_writer.set_proxies(
            tuple((prefix.network_address.packed, prefix.prefixlen) for prefix in config.proxy_protocol_from)
        )
        allow = config.forward.allow
        self.inflight.settings_writer.set_allowed(
            transfers=packed(allow.transfers), updates=packed(allow.updates),
            notifies=packed((*allow.notifies, *chain.from_iterable(self._assigned.notifiers.values()))),
        )  # fmt: skip
        told = config.client_subnet
        self.inflight.settings_writer.set_subnets(
            ipv4=told.ipv4_prefix_length if told.add else 0,
            ipv6=told.ipv6_prefix_length if told.add else 0,
            private=told.private,
        )
        self._secrets = secrets
        self._set_cookies(secrets, config)
        self.config = config

    def _identity(self, config: Config) -> Callable[[bytes], bytes | None] | None:
        """Return who answers questions of class CHAOS, if the shield does."""
        if not config.chaos.identity and not config.chaos.version:
            return None
        return partial(chaos.response, server=config.chaos.identity, version=config.chaos.version)

    def _set_cookies(self, secrets: CookieSecrets, config: Config) -> None:
        self.inflight.settings_writer.set_cookies(
            secrets.current(), serve=config.cookies.mode == "serve", require=config.cookies.require
        )

    def reload(self) -> None:
        """Have the configuration read again; a wrong one is reported, and the old one stays."""
        if self._reread is None or self._stopping.is_set():
            return
        self._again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while self._again:
            self._again = False
            notify("RELOADING=1")
            try:
                await self._apply_reload()
            except ConfigError as error:
                for line in str(error).splitlines():
                    log.error("reload failed: %s", line)
            except Exception:  # whatever it is, the next reload may go better
                log.exception("reload failed")
            else:
                self.stats.reloads += 1
                log.info("reloaded")
            notify("READY=1")

    async def _apply_reload(self) -> None:
        """Read the configuration and its rules beside the work that goes on, and then change to them at once."""
        assert self._reread is not None
        new = hugepages.fitted(await asyncio.to_thread(self._reread))
        for key in RESTART:
            if attrgetter(key)(new) != attrgetter(key)(self.config):
                log.warning("%s: the new value takes effect after a restart", key)
        if settings.deny(new) and not self.denials.limit:
            log.warning("aggressive NSEC and NXDOMAIN cut take effect after a restart, which allocates their memory")
        new, before = _kept(self.config, new), self.sturm.rules
        prepared = await asyncio.to_thread(self.sturm.prepare, new)
        await self.sturm.set_up(prepared)
        try:
            self.configure(new, prepared)
        except Exception:
            await self.sturm.tear_down(prepared.rules)
            raise
        self.watchers.configure(self._watched())
        await self.sturm.tear_down(before)

    def is_serving(self) -> bool:
        """Tell whether all workers answer: from the moment that it is ready until it is told to end."""
        return not self._stopping.is_set() and bool(self._threads) and all(each.is_alive() for each in self._threads)

    def stop(self) -> None:
        """Have `run` drain and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, or until SIGTERM or SIGINT comes."""
        loop = asyncio.get_running_loop()
        threads = [threading.Thread(target=worker.run, name=f"worker-{n}") for n, worker in enumerate(self.workers)]
        shelf, kept = Shelf(self.cache), self.config.cache.snapshot and Path(self.config.cache.snapshot)
        with self._close, contextlib.suppress(asyncio.CancelledError):
            if kept:
                self._restore(shelf, kept)
            await self.sturm.set_up_first()
            with self._signals(loop):
                await self._serve(loop, threads, shelf, kept)

    async def _serve(
        self, loop: asyncio.AbstractEventLoop, threads: list[threading.Thread], shelf: Shelf, kept: Path | str
    ) -> None:
        """Serve from now on, until `stop`, and see to it that nothing is lost at the end."""
        loop.add_reader(self.inflight.fileno(), self.forwarder.ready)
        servers = await self._serve_streams(loop)
        controlled = await control.serve(self._control, self._handle) if self._control is not None else None
        self.watchers.configure(self._watched())
        works: list[Coroutine[Any, Any, None]] = [
            self._housekeeping(),
            self._judge(),
            self._apply_dynblocks(),
            self.tcp.close_idle(),
            Expiry(self.cache).run(),
        ]
        if hugepages.is_large(self.config.cache.memory):
            works.append(hugepages.prepare(self.cache))
        if kept:
            interval = self.config.cache.snapshot_interval
            works.append(snapshot.keep(shelf, Path(kept), interval, self._origins))
        tasks = [loop.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            for thread in threads:
                thread.start()
            self._threads = threads
            log.info(
                "ready: listening on %s, forwarding to %s",
                _list(self.config.listen),
                _list(self.config.members(DEFAULT_GROUP)),
            )
            notify("READY=1")
            if early_signals.came(signal.SIGHUP):
                self.reload()
            await self._stopping.wait()
            notify("STOPPING=1")
            log.info("draining")
            self.inflight.settings_writer.set_idle(0)  # who asks is told to leave (RFC 7828 3.4)
        finally:
            for worker in self.workers:
                worker.stop()
            for thread in threads:
                thread.join()
        for server in servers:
            server.close()
        self.forwarder.ready()  # what the workers handed over last
        await self.forwarder.drain(self.config.drain_timeout)
        await self.sturm.close()
        self.tcp.close()
        if controlled is not None:
            controlled.close()
        origins = self._origins()
        self.watchers.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if kept:
            await snapshot.write(shelf, Path(kept), origins)
        loop.remove_reader(self.inflight.fileno())
        self.upstreams.close()
        await asyncio.sleep(0)  # connections close on the loop's next turn
        log.info("stopped")

    async def _serve_streams(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.AbstractServer]:
        """Take connections: of clients, and of Prometheus."""
        protocols: list[tuple[socket.socket, Callable[[], asyncio.Protocol]]] = [
            (opened, partial(self.tcp.protocol, n)) for n, opened in enumerate(self._tcp)
        ]
        if self._scraped is not None:
            protocols.append(self._scraped)
        return [
            await loop.create_server(protocol, sock=opened, backlog=sockets.BACKLOG) for opened, protocol in protocols
        ]

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stop where something that must go on for ever did not: whoever supervises us starts us again."""
        if not task.cancelled():
            log.error("stopping: internal error, a background task ended: %r", task.exception())
            self.stop()

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Any:  # noqa: ANN401
        """Follow signals until the very end: nothing may kill it while it writes its last snapshot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload}
        before = {number: signal.getsignal(number) for number in handlers}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
                signal.signal(number, before[number] or signal.SIG_DFL)

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            self.upstreams.keep_house()
            self._tell_of_nobody()
            logs.summarize()
            self.watchers.wake()
            self._folded = False
            self.sturm.keep_house()
            self.cache.epochs.reclaim()
            if self.sturm.has_changed():
                self.reload()
            if self._secrets and self._secrets.refresh():
                self._set_cookies(self._secrets, self.config)

    def _tell_of_nobody(self) -> None:
        """Tell of queries that failed because there was no upstream to ask."""
        failed = self.inflight.counters()["no_upstream_available"]
        if failed != self._for_nobody:
            limited.warning("nobody", "query failed: no upstream is available", times=failed - self._for_nobody)
        self._for_nobody = failed

    async def _judge(self) -> None:
        while True:
            await asyncio.sleep(self.upstreams.pulse)
            self.upstreams.judge()

    async def _apply_dynblocks(self) -> None:
        while True:
            await asyncio.sleep(GUARDING)
            self.blocks.judge()
            self._give_way(sum(worker.dropped for worker in self.workers))

    def _give_way(self, dropped: int) -> None:
        """Let workers go first, while they drop misses for want of shares: else this thread has the time that it takes.

        Where there are cores for all, that changes nothing. To come back takes RLIMIT_NICE, which root sets at start.
        """
        now, flooded = self.clock.seconds(), dropped != self._dropped
        self._dropped = dropped
        if flooded:
            self._calm_at = now + CALM
        wanted = NICE if flooded or now < self._calm_at else self._nice
        if wanted != self._niced:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), wanted)
            self._niced = wanted

    # ---------------------------------------------------------------- changes at the origin

    def _watched(self) -> dict[WatchedZone, PollInterval]:
        """Return which zones are watched where, and how often: those with notifiers when these say so."""
        return {
            WatchedZone(zone.name, each.asked): PollInterval(zone.watch_interval, zone.watch_jitter)
            if zone.watch
            else ON_NOTIFY
            for zone in self.config.zones
            if zone.watch
            or (self.config.allow_notify_from if zone.allow_notify_from is None else zone.allow_notify_from)
            for each in self.config.upstreams_of(zone)
        }

    def _origins(self) -> snapshot.Origins:
        """Return where the answers are from, for the snapshot."""
        return snapshot.Origins([zone.name for zone in self.config.zones], self.watchers.serials)

    def _restore(self, shelf: Shelf, path: Path) -> None:
        """Take up the answers of a snapshot, but for those of zones that are new, or no more."""
        restored, origins = snapshot.read(shelf, path)
        self.watchers.restored = restored > 0
        self.watchers.serials = origins.serials
        for name in {zone.name for zone in self.config.zones} ^ set(origins.zones) if restored else ():
            self._purge(name_to_wire(name))

    def _changed(self, zone: str) -> None:
        """Purge a zone that is watched and has another serial; let another's answers expire."""
        if any(each.watch for each in self.config.zones if each.name == zone):
            self._purge(name_to_wire(zone))
        else:
            self.cache.purge(name_to_wire(zone), below=True, let_expire=True)
            self._forget(name_to_wire(zone))

    def _purge(self, name: bytes) -> None:
        """Take out a name and all below it."""
        self.cache.purge(name, below=True)
        self._forget(name)

    def _forget(self, name: bytes) -> None:
        """Forget what is known of a name elsewhere than in the cache: no crash may bring it back."""
        self.denials.forget(name)
        if self.config.cache.snapshot:
            snapshot.remove(Path(self.config.cache.snapshot))

    def _notified(self, name: bytes) -> bool:
        """Have a zone's serial looked at, since it says that it has changed; False: there is no such zone."""
        return self.watchers.poll_now(name_from_wire(name))

    async def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request on the control socket."""
        match request:
            case {"command": "stats"}:
                return {"stats": self.snapshot()}
            case {"command": "purge", "name": str(name), **options}:
                qtype = options.get("type")
                if qtype is not None and not isinstance(qtype, str):
                    raise FunkenShieldError("purge: type must be a string")
                noted = purge(self.cache, name, qtype, below=options.get("below") is True)
                if noted != name_to_wire(name) and not self._folded:
                    self._folded = True
                    log.warning("too many purges at once: purging %s instead of %s", name_from_wire(noted), name)
                self._forget(noted)
                return {}
            case {"command": "block list"}:
                return {"blocks": self.blocks.listed()}
            case {"command": "block add", "prefix": str(prefix), "seconds": int() | float() as seconds}:
                action: Refusal = "refuse" if request.get("action") == "refuse" else "drop"
                self.blocks.add(prefix, seconds, action, sure=request.get("sure") is True)
                return {}
            case {"command": "block remove", "prefix": str(prefix)}:
                return {"removed": self.blocks.lift(prefix)}
        raise FunkenShieldError(
            "no such command, or a member is missing; commands are stats, purge (name; type, below), block list,"
            " block add (prefix, seconds; action, sure), block remove (prefix)"
        )

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, by the names that `metrics` gives a meaning."""
        return self.stats.snapshot()


def _kept(old: Config, new: Config) -> Config:
    """Return the new configuration, with what takes a restart as it was."""
    for key in RESTART:
        section, _, name = key.rpartition(".")
        if section:
            changed = getattr(new, section).model_copy(update={name: attrgetter(key)(old)})
            new = new.model_copy(update={section: changed})
        else:
            new = new.model_copy(update={name: getattr(old, name)})
    return new


def _list(endpoints: tuple[object, ...]) -> str:
    return ", ".join(map(str, endpoints))


def _bind_control(config: Config) -> socket.socket | None:
    """Return the control socket; None where there is to be none, or where there is no place for the default one."""
    if not config.control.socket:
        return None
    try:
        return control.bind(Path(config.control.socket))
    except control.NoPlaceError as error:
        if "socket" in config.control.model_fields_set:
            raise
        log.warning("%s; running without a control socket: funkenshield stats, purge and block will not work", error)
        return None


def serve(config: Config, reread: Callable[[], Config] | None = None) -> None:
    """Run a daemon until a signal ends it."""

    allow_descriptors(config)
    allow_nice()

    async def main() -> None:
        daemon = Daemon(config, reread)
        gc.freeze()  # what there is by now stays: no collection looks at it again, which took tens of milliseconds
        await daemon.run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        logs.flush()
