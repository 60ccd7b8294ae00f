"""Upstreams by name, as the files of a machine change: its hosts, its nameservers."""

from support import rig
from support.control import advance, stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream

from field.test_containers import in_mounts

OTHER = "127.0.0.2"


def upstreams_of(shield):
    return sorted(each["address"] for each in stats(shield)["upstreams"].values())


def test_a_host_and_the_nameservers_of_the_machine_are_followed_as_they_change(tmp_path):
    """Names are only looked up in files here; the shield's own address among the nameservers is left out."""
    (tmp_path / "hosts").write_text("127.0.0.1 ns.test\n")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.3\nnameserver 127.0.0.9\n")
    mounts = in_mounts(*(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("hosts", "resolv.conf")))
    with (
        ScriptedUpstream(rig.numbered(1)) as one,
        ScriptedUpstream(rig.numbered(2), OTHER, one.address.port),
        ScriptedUpstream(rig.numbered(3), "127.0.0.3", 53),
        ScriptedUpstream(rig.numbered(4), "127.0.0.4", 53),
    ):
        zones = [{"name": "machine.test", "upstreams": "resolv.conf"}]
        toml = rig.toml(upstreams=[f"ns.test:{one.address.port}"], zones=zones)
        with run_shield([], listen=[("127.0.0.9", 53)], toml=toml, under=mounts) as shield:

            def answered(name):
                return rig.data(rig.ask(shield, name))

            assert (answered("a.test."), answered("a.machine.test.")) == (["192.0.2.1"], ["192.0.2.3"])
            assert "resolv.conf: 127.0.0.9:53 left out: it is the shield itself" in shield.log
            (tmp_path / "hosts").write_text(f"{OTHER} ns.test\n")
            (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.4\n")
            advance(shield, 61)
            until(lambda: upstreams_of(shield) == [f"{OTHER}:{one.address.port}", "127.0.0.4:53"], 20)
            assert (answered("b.test."), answered("b.machine.test.")) == (["192.0.2.2"], ["192.0.2.4"])
