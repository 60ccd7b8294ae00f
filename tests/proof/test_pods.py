"""Show that the daemon runs with exactly what the manifests in `contrib/kubernetes` give it, and does what they need.

A pod here is a process in a tree of its own that is read only but for the manifest's volumes, as the manifest's user,
without capabilities, within the manifest's memory, with its configuration laid out as kubelets lay out a ConfigMap.
What is not here is seccomp: `make container-test` has that of podman. It takes root.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from support import nameservers, quick
from support.asking import over_udp_and_tcp
from support.client import Address, tcp_wire, udp_wire
from support.network import as_root
from support.until import until

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "contrib" / "kubernetes"
COMMAND = [sys.executable, "-m", "funkenshield"]
A, TXT, ANY = 1, 16, 255
MIB = 1 << 20
ZONE = (
    "$ORIGIN pods.test.\n$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
    "*.a A 192.0.2.80\n" + (f"*.full TXT {' '.join(chr(34) + letter * 250 + chr(34) for letter in 'abcd')}\n")
)
FULL = 200_000  # names with entries of a thousand octets and more
SEEN = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/dev", "/sys", sys.prefix, sys.base_prefix, str(ROOT))
pytestmark = [pytest.mark.proof, pytest.mark.timeout(600), as_root]


def manifests(kind):
    """Return the pod, and the text of the configuration, of a file of manifests."""
    found = {each["kind"]: each for each in yaml.safe_load_all((KUBERNETES / f"{kind}.yaml").read_text())}
    workload = found["DaemonSet" if kind == "node" else "Deployment"]
    return workload["spec"]["template"]["spec"], found["ConfigMap"]["data"]["funkenshield.toml"]


def memory_group(name, limit):
    """Return a new control group that limits memory to so many octets; None where none can be made."""
    for base, key in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        with contextlib.suppress(OSError):
            (base / name).mkdir()
            with contextlib.suppress(OSError):
                (base / name / key).write_text(str(limit))
                return base / name
            (base / name).rmdir()
    return None


class Pod:
    """One pod of a kind, on this machine's network; the node's address is 127.0.0.1."""

    count = 0

    def __init__(self, kind, folder, upstream, more=""):
        Pod.count += 1
        self.spec, self.config = manifests(kind)
        self.container = self.spec["containers"][0]
        self.folder, self.name = folder / f"pod{Pod.count}", f"funkenshield-{os.getpid()}-{Pod.count}"
        self.volumes, self.root = self.folder / "volumes", self.folder / "root"
        self.root.mkdir(parents=True)
        self.config = re.sub(r"^upstreams = .*", f'upstreams = ["{upstream.address}"]', self.config) + more
        self.configured = 0
        self.configure(self.config)

    # ---------------------------------------------------------------- what a kubelet does

    def configure(self, text):
        """Have the ConfigMap say this: a folder of a new name, to which one link is turned."""
        self.configured += 1
        place = self.volumes / "config"
        new = place / f"..2026_{self.configured}"
        new.mkdir(parents=True)
        (new / "funkenshield.toml").write_text(text)
        (place / "..data_tmp").symlink_to(new.name)
        (place / "..data_tmp").rename(place / "..data")
        if self.configured == 1:
            (place / "funkenshield.toml").symlink_to("..data/funkenshield.toml")

    @property
    def environ(self):
        """Return the container's variables, those of the image and of where Python is here first."""
        found = {"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": str(ROOT), "STATE_DIRECTORY": "/var/lib/funkenshield"}
        for each in self.container.get("env", []):
            value = each.get("value", "127.0.0.1")  # status.hostIP
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], value)
        return found

    @property
    def rights(self):
        """Return a command that takes from a process what the manifest does not leave to it."""
        pod, own = self.spec["securityContext"], self.container["securityContext"]
        assert pod["runAsNonRoot"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        return [
            "setpriv", f"--reuid={pod['runAsUser']}", f"--regid={pod['runAsGroup']}", f"--groups={pod['fsGroup']}",
            "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all",
        ]  # fmt: skip

    @property
    def limit(self):
        """Octets of memory that it may have."""
        return int(self.container["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB

    def _tree(self):
        """Yield the lines of a shell that lay out what the container sees, and make it read only."""
        root = shlex.quote(str(self.root))
        yield f"mount -t tmpfs -o mode=755 tmpfs {root}"
        for place in map(shlex.quote, SEEN):
            yield f"[ -e {place} ] && mkdir -p {root}{place} && mount --rbind {place} {root}{place}"
            if place not in ("/proc", "/dev", "/sys"):
                yield f"mount -o remount,bind,ro {root}{place}"
        volumes = {each["name"]: each for each in self.spec["volumes"]}
        for each in self.container["volumeMounts"]:
            place = root + each["mountPath"]
            yield f"mkdir -p {place}"
            if "emptyDir" in volumes[each["name"]]:
                limit = volumes[each["name"]]["emptyDir"]["sizeLimit"].removesuffix("i")
                group = self.spec["securityContext"]["fsGroup"]
                yield f"mount -t tmpfs -o mode=2777,gid={group},size={limit} tmpfs {place}"
            else:
                yield f"mount --bind {shlex.quote(str(self.volumes / each['name']))} {place}"
                yield f"mount -o remount,bind,ro {place}"
        yield f"mount -o remount,ro {root}"

    def __enter__(self):
        self.group = memory_group(self.name, self.limit)
        enter = [f"echo $$ >{self.group}/cgroup.procs"] if self.group else []
        run = shlex.join(["chroot", str(self.root), *self.rights, *COMMAND, *self.container["args"]])
        script = "\n".join([*enter, *self._tree(), f"exec {run}"])
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
                stdout=log, stderr=log, env=self.environ, cwd="/",
            )  # fmt: skip
        until(lambda: "ready: " in self.log or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        if self.group:
            until(lambda: not (self.group / "cgroup.procs").read_text())
            self.group.rmdir()

    def inside(self, *rights):
        """Return a command that runs another one in the container: with its rights, or these."""
        enter = ["nsenter", "--mount", "--target", str(self.process.pid), "chroot", str(self.root)]
        return [*enter, *(rights or self.rights)]

    def probe(self, name):
        """Do what a probe of the manifest does, and tell whether it succeeds."""
        probe = self.container[f"{name}Probe"]
        if "exec" in probe:
            (first, *more) = probe["exec"]["command"]
            assert first == "funkenshield"
            return (
                subprocess.run([*self.inside(), *COMMAND, *more], env=self.environ, capture_output=True).returncode == 0
            )
        ports = {each["name"]: each["containerPort"] for each in self.container["ports"]}
        asked = probe["httpGet"]
        with contextlib.suppress(urllib.error.HTTPError):
            url = f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}"
            return urllib.request.urlopen(url, timeout=probe["timeoutSeconds"]).status == 200
        return False

    @property
    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    @property
    def status(self):
        return Path(f"/proc/{self.process.pid}/status").read_text()

    def terminate(self):
        """End it as a kubelet does; it has the time that the manifest gives."""
        self.process.terminate()
        assert self.process.wait(self.spec["terminationGracePeriodSeconds"]) == 0, self.log


@pytest.fixture(scope="module")
def upstream():
    with nameservers.nsd({"pods.test": ZONE}) as server:
        yield server


@pytest.fixture(scope="module")
def front(upstream, tmp_path_factory):
    with Pod("front", tmp_path_factory.mktemp("front"), upstream) as pod:
        yield pod


DNS = Address("127.0.0.1", 8054)


def test_it_serves_without_rights_on_a_tree_that_is_read_only(front):
    assert "WARNING" not in front.log
    for exchange in udp_wire, tcp_wire:
        assert exchange(DNS, quick.query("b.a.pods.test", A))[7] == 1
    assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", front.status, re.M)
    assert re.search(r"^Gid:\t65532\t65532\t65532\t65532$", front.status, re.M)
    assert len(re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\t0{16}$", front.status, re.M)) == 5
    assert re.search(r"^NoNewPrivs:\t1$", front.status, re.M)
    for place, may_write in {"/": False, "/usr": False, "/etc/funkenshield": False, "/run": True}.items():
        done = subprocess.run(
            [*front.inside("env"), "touch", f"{place}/it"], env=front.environ, capture_output=True, text=True
        )
        assert (done.returncode == 0) == may_write
        assert may_write or "Read-only file system" in done.stderr
    assert all(front.probe(each) for each in ("startup", "readiness", "liveness"))


def test_another_configmap_is_taken_up_and_a_wrong_one_is_refused_in_one_line(front):
    front.configure(front.config + "minimal_any = true\n")
    until(lambda: front.log.count(" reloaded") == 1, 10)
    assert udp_wire(DNS, quick.query("b.a.pods.test", ANY))[7] == 1  # HINFO, of our own
    before = front.log
    front.configure(front.config + "minimal_an = true\n")
    until(lambda: "reload failed" in front.log, 10)
    time.sleep(2.5)
    (line,) = front.log.removeprefix(before).splitlines()
    assert "ERROR   reload failed: /etc/funkenshield/funkenshield.toml: minimal_an: no such key; did you mean" in line
    assert udp_wire(DNS, quick.query("b.a.pods.test", ANY))[7] == 1
    front.configure(front.config)
    until(lambda: front.log.count(" reloaded") == 2, 10)


def test_a_full_cache_fits_into_its_memory(front):
    if front.group is None:
        pytest.skip("no control group can be made here")
    names = front.folder / "names"
    names.write_text("".join(f"n{number}.full.pods.test TXT\n" for number in range(FULL)))
    subprocess.run(
        [*COMMAND, "perf", "-d", names, "-p", "8054", "-n", str(FULL), "-l", "120", "-e", "--json"],
        check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
    )  # fmt: skip
    assert front.process.poll() is None, front.log
    peak = next(filter(Path.exists, (front.group / each for each in ("memory.max_usage_in_bytes", "memory.peak"))))
    print(f"{int(peak.read_text()) / MIB:.0f} MiB at most, of {front.limit / MIB:.0f}")
    with urllib.request.urlopen("http://127.0.0.1:9153/metrics") as page:
        (evicted,) = re.findall(r"^funkenshield_cache_evictions_total (\S+)", page.read().decode(), re.M)
    assert float(evicted) > 0, "the cache was not full"
    assert int(peak.read_text()) < 0.95 * front.limit


def test_it_is_not_ready_and_serves_on_before_it_ends(front):
    began = time.monotonic()
    front.process.terminate()
    until(lambda: not front.probe("readiness"))
    assert front.probe("liveness")
    while time.monotonic() < began + 8:
        assert udp_wire(DNS, quick.query("b.a.pods.test", A), timeout=2)[7] == 1
        time.sleep(0.2)
    assert front.process.wait(front.spec["terminationGracePeriodSeconds"] - 8) == 0


def test_on_a_node_the_next_pod_serves_before_the_one_before_ends(upstream, tmp_path):
    with contextlib.ExitStack() as pods:
        old = pods.enter_context(Pod("node", tmp_path, upstream))
        assert "hostPort" not in yaml.dump(old.spec)
        assert "ports" not in old.container
        assert old.spec["hostNetwork"]
        with over_udp_and_tcp(DNS, "n{}.a.pods.test") as clients:
            for _ in range(2):
                time.sleep(0.5)
                new = pods.enter_context(Pod("node", tmp_path, upstream))
                assert new.probe("startup")
                old.process.terminate()
                until(lambda old=old: not old.probe("readiness"), 10)
                assert new.probe("readiness")
                assert new.probe("liveness")
                assert old.process.wait(old.spec["terminationGracePeriodSeconds"]) == 0
                old = new
        assert clients.asked > 500
        assert clients.failed == []
        assert urllib.request.urlopen("http://127.0.0.1:9153/ready").status == 200
        old.process.send_signal(signal.SIGTERM)
        old.process.send_signal(signal.SIGTERM)
