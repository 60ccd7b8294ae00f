"""Show that it is noted which version of a file was read."""

from funkenshield.core.files import noted, read_text


def test_it_is_noted_which_version_of_a_file_was_read(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    with noted() as read:
        read_text(file)
    _, inode, size, *_ = read[file]
    assert (inode, size) == (file.stat().st_ino, 3)
