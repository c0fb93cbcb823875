"""Spools: what a command wrote, bounded, private, and gone with its call."""

import stat
from pathlib import Path

from kheishd.hooks.spool import Spool, tail


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """All of it, in its order; the file and its directory are nobody else's."""
    spool = Spool(tmp_path / "calls" / "one")
    spool.begin()
    spool.write(b"first, ")
    spool.write(b"second")
    assert spool.read() == b"first, second"
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.path.parent.stat().st_mode) == 0o700
    spool.remove()
    assert not spool.path.exists()


def test_it_has_an_end(tmp_path: Path) -> None:
    """What there is no room for is counted, to the byte."""
    spool = Spool(tmp_path / "one", max_bytes=10)
    spool.begin()
    spool.write(b"123456")
    assert spool.takes_more
    spool.write(b"789012345")
    assert not spool.takes_more
    spool.write(b"more")
    assert spool.read() == b"1234567890"
    assert spool.dropped == 5 + 4
    assert spool.problem is None
    spool.remove()


def test_what_was_left_is_overwritten(tmp_path: Path) -> None:
    """A spool begins empty."""
    (tmp_path / "one").write_text("of another time")
    spool = Spool(tmp_path / "one")
    spool.begin()
    assert spool.read() == b""
    spool.remove()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever put a link in its place does not have something else overwritten, or told."""
    (tmp_path / "other").write_text("precious")
    (tmp_path / "one").symlink_to(tmp_path / "other")
    spool = Spool(tmp_path / "one")
    spool.begin()
    spool.write(b"x")
    assert spool.dropped == 1
    assert spool.problem == "Too many levels of symbolic links"
    assert tail(tmp_path / "one", 100) is None
    spool.remove()
    assert (tmp_path / "other").read_text() == "precious"


def test_a_disk_that_gives_up() -> None:
    """What could not be written is counted, and why is known."""
    spool = Spool(Path("/dev/full"))
    spool.begin()
    spool.write(b"x" * 100)
    assert (spool.dropped, spool.problem) == (100, "No space left on device")
    assert not spool.takes_more
    assert spool._file is not None
    spool._file.close()


def test_the_tail_of_what_was_left(tmp_path: Path) -> None:
    """The end of a file, all of a short one, None of none."""
    (tmp_path / "one").write_bytes(b"0123456789")
    assert tail(tmp_path / "one", 4) == b"6789"
    assert tail(tmp_path / "one", 40) == b"0123456789"
    assert tail(tmp_path / "two", 4) is None
