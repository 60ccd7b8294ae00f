"""What an interface is, as this machine tells it; programs on it take root, and are tested in `tests/xdp`."""

from funkenshield.xdp import interface
from funkenshield.xdp.interface import Link

TOLD = """VLAN Dev name    | VLAN ID
Name-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD
lo.20          | 20  | lo
eth0.7         | 7  | eth0
office         | 10  | lo
"""


def test_an_interface_is_another_one_where_it_has_other_vlans(monkeypatch, tmp_path):
    monkeypatch.setattr(interface, "VLANS", tmp_path / "config")
    before = Link.of("lo")
    assert before.vlans == ()
    (tmp_path / "config").write_text(TOLD)
    after = Link.of("lo")
    assert after != before
    assert after.vlans == (10, 20)
