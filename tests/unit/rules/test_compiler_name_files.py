"""Files of names: what their lines mean, and one clear line for each that is no name."""

import pytest

from funkenshield.errors import ConfigError
from funkenshield.rules.compiler import read_names
from funkenshield.wire.names import name_from_wire


@pytest.fixture
def listed(tmp_path):
    """Return the names of a file that has this in it."""

    def names(content):
        (tmp_path / "names").write_bytes(content)
        return sorted(map(name_from_wire, read_names(tmp_path / "names")))

    return names


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.test\nb.test.\n\n  c.test  \r\n", ["a.test.", "b.test.", "c.test."]),
        (b"# all\na.test # one\n#b.test\nc.test#", ["a.test.", "c.test."]),
        (b"*.a.test\n.b.test\n", ["a.test.", "b.test."]),
        (b"0.0.0.0 a.test\n::\tb.test\nfe80::1%lo0 c.test", ["a.test.", "b.test.", "c.test."]),
        (b"127.0.0.1 a.test b.test\tc.test # three\n", ["a.test.", "b.test.", "c.test."]),
        (b"A.TEST\n_b.test\na.test", ["_b.test.", "a.test."]),
        ("b\u00fccher.test\n".encode(), ["xn--bcher-kva.test."]),
        (b"\\098.test\n", ["b.test."]),
        (b"a." * 126 + b"a", ["a." * 127]),
        (b".\n", ["."]),
        (b"", []),
    ],
)
def test_names_of_a_file(listed, content, names):
    assert listed(content) == names


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"a..b.test", "a..b.test is not a name"),
        (b"..", ".. is not a name"),
        (b"a" * 64 + b".test", "is not a name"),
        (b"a." * 127 + b"a", "is not a name"),
        (b"\xff.test", "can't decode"),
        (b"a.test b.test", "more than one name; write one per line, or an address before them (hosts file)"),
        (b"0.0.0.0 a.test b..test", "b..test is not a name"),
    ],
)
def test_a_line_that_is_no_name_is_told_with_its_number(listed, tmp_path, line, told):
    with pytest.raises(ConfigError) as mistake:
        listed(b"# names\na.test\n\n" + line + b"\nb.test\n")
    (text,) = str(mistake.value).splitlines()
    assert text.startswith(f"{tmp_path / 'names'}:4: ")
    assert told in text


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"/nothing: No such file or directory$"):
        read_names(tmp_path / "nothing")
