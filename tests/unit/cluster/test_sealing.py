"""What nodes seal, and what they believe."""

import pytest

from funkenshield.cluster.sealing import MESSAGE, SEAL, VALUE, Sealer, load_secrets
from funkenshield.errors import ConfigError

ONE, TWO = bytes(32), b"\1" * 32


def test_what_was_sealed_is_believed_in_its_place_and_nowhere_else():
    sealer = Sealer([ONE])
    sealed = sealer.seal(VALUE, b"here", b"octets")
    assert sealer.open(VALUE, b"here", sealed) == b"octets"
    assert sealer.open(VALUE, b"there", sealed) is None
    assert sealer.open(MESSAGE, b"here", sealed) is None


def test_who_has_another_secret_is_not_believed():
    assert Sealer([ONE]).open(VALUE, b"", Sealer([TWO]).seal(VALUE, b"", b"octets")) is None
    assert Sealer([ONE]).name(b"a") != Sealer([TWO]).name(b"a")


@pytest.mark.parametrize("at", [0, SEAL - 1, SEAL, SEAL + 5])
def test_an_octet_that_was_changed_is_seen(at):
    sealed = bytearray(Sealer([ONE]).seal(VALUE, b"", b"octets"))
    sealed[at] ^= 1
    assert Sealer([ONE]).open(VALUE, b"", bytes(sealed)) is None


@pytest.mark.parametrize("sealed", [None, b"", b"short", 7, [b"list"], bytes(SEAL)])
def test_what_is_no_seal_is_not_believed(sealed):
    assert Sealer([ONE]).open(VALUE, b"", sealed) is None


def test_the_parts_of_a_name_are_told_apart():
    assert Sealer([ONE]).name(b"a", b"bc") != Sealer([ONE]).name(b"ab", b"c")


def test_a_new_secret_is_believed_before_it_seals():
    before, meanwhile, after = Sealer([ONE]), Sealer([ONE, TWO]), Sealer([TWO, ONE])
    assert before.open(VALUE, b"", meanwhile.seal(VALUE, b"", b"x")) == b"x"
    assert meanwhile.open(VALUE, b"", after.seal(VALUE, b"", b"x")) == b"x"


def test_secrets_are_read_with_their_comments(tmp_path):
    (tmp_path / "secrets").write_text(f"# all nodes\n{ONE.hex()}\n\n{TWO.hex()} # the next one\n")
    assert load_secrets(tmp_path / "secrets") == (ONE, TWO)


@pytest.mark.parametrize(
    ("text", "why"), [("", "0 secrets"), ("abc\n", ":1: not a secret"), (f"{ONE.hex()}\n" * 5, "5 secrets")]
)
def test_a_wrong_file_is_refused_with_its_mistake(tmp_path, text, why):
    (tmp_path / "secrets").write_text(text)
    with pytest.raises(ConfigError, match=why):
        load_secrets(tmp_path / "secrets")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_secrets(tmp_path / "secrets")
