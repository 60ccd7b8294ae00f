"""Show that it is noted which version of a file was read, and when another one is there."""

import os

import pytest

from funkenshield.core.files import Watched, exposed, noted, read_text


def test_it_is_noted_which_version_of_a_file_was_read(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    with noted() as read:
        read_text(file)
    _, inode, size, *_ = read[file]
    assert (inode, size) == (file.stat().st_ino, 3)


def looks(watched):
    """Look three times, and return what was told."""
    return [watched.has_changed() for _ in range(3)]


def test_another_version_is_told_once_it_was_there_before(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    watched = Watched(file)
    assert looks(watched) == [False, False, False]
    file.write_text("half of tw")
    assert not watched.has_changed()
    file.write_text("all of two")
    assert looks(watched) == [False, True, True]
    with watched.reading():
        read_text(file)
    assert looks(watched) == [False, False, False]


def test_what_a_link_leads_to_may_change_and_be_away_meanwhile(tmp_path):
    """As a ConfigMap is mounted: the file is a link into a folder that is a link, and that one is exchanged."""
    for name in "one", "two":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "file").symlink_to("data/file")
    watched = Watched(tmp_path / "file")
    (tmp_path / "data").unlink()
    assert looks(watched) == [False, False, False]
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert looks(watched) == [False, True, True]


def test_what_cannot_be_read_is_tried_once(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    watched = Watched(file)
    file.unlink()
    file.mkdir()
    assert looks(watched) == [False, True, True]
    with watched.reading():
        pass
    assert looks(watched) == [False, False, False]


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_what_everybody_may_read_is_told(mode, told, tmp_path):
    (tmp_path / "key").touch(mode)
    (tmp_path / "key").chmod(mode)
    line = f"a.b: {tmp_path}/key: everybody on this machine may read it (chmod o-r)"
    assert list(exposed("a.b", f"{tmp_path}/key")) == [line] * told
    assert list(exposed("a.b", f"{tmp_path}/none")) == []
