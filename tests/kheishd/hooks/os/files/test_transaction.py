"""Changing files: whole or not at all, whatever goes wrong, and nothing left beside."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kheishd.hooks.os.files.transaction import apply, locked, names_beside, put_back, tidy
from kheishd.hooks.os.files.confinement import Root, open_root
from kheishd.hooks.files.looking import PIECE_BYTES, Found, look
from kheishd.hooks.os.files.edits import Change
from kheishd.kernel.hook import Stale, ToolError
from tests.support.desk import full_disk


class GivenUp(Exception):
    """Nobody wants it any more."""


def change(root: Root, path: str, after: bytes) -> Change:
    """A change of what is there now."""
    return Change(look(root, path), after)


def make(workspace: Path, *, check: Callable[[], object] = lambda: None, **files: bytes) -> None:
    """Give files new contents."""
    with open_root(str(workspace)) as root:
        apply(root, [change(root, path, after) for path, after in files.items()], "key", check)


def contents(workspace: Path) -> dict[str, bytes]:
    """Every file there is, whatever it is called."""
    return {
        str(path.relative_to(workspace)): path.read_bytes() for path in workspace.rglob("*") if path.is_file()
    }


def test_new_and_old_files(tmp_path: Path) -> None:
    """Directories are made; the mode of an old file stays, that of a new one is the usual."""
    (tmp_path / "old").write_bytes(b"before")
    (tmp_path / "old").chmod(0o750)
    with open_root(str(tmp_path)) as root:
        apply(root, [change(root, "old", b"after"), change(root, "a/b/new", b"")], "key")
    assert contents(tmp_path) == {"old": b"after", "a/b/new": b""}
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "a" / "b" / "new").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_old_file_is_never_torn(tmp_path: Path) -> None:
    """Who had it open goes on reading the old one, whole."""
    (tmp_path / "f").write_bytes(b"before")
    with (tmp_path / "f").open("rb") as reader:
        make(tmp_path, f=b"after")
        assert reader.read() == b"before"


def test_a_file_with_two_names_is_changed_under_one(tmp_path: Path) -> None:
    """The other name may lie outside of the workspace."""
    (tmp_path / "ws").mkdir()
    (tmp_path / "outside").write_bytes(b"before")
    os.link(tmp_path / "outside", tmp_path / "ws" / "f")
    make(tmp_path / "ws", f=b"after")
    assert (tmp_path / "outside").read_bytes() == b"before"


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_given_up_before_the_first_renaming(tmp_path: Path, stop_at: int) -> None:
    """Nothing has happened, and nothing is left."""
    before = {"f": b"one", "g": b"two"}
    for path, content in before.items():
        (tmp_path / path).write_bytes(content)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise GivenUp

    large = b"x" * (PIECE_BYTES * 2 + 1)
    with pytest.raises(GivenUp):
        make(tmp_path, check=check, f=large, g=large)
    assert contents(tmp_path) == before


def test_a_full_disk(tmp_path: Path) -> None:
    """The second file does not fit: the first is not changed either, and nothing is left beside."""
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    with full_disk(), pytest.raises(ToolError, match="g: the file would be larger than this system allows"):
        make(tmp_path, f=b"fits", g=b"x" * 10_000)
    assert contents(tmp_path) == {"f": b"one", "g": b"two"}


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    """What the system says is told; /sys takes new files from nobody, not even from root."""
    for path in ("kheish", "kheish/new"):
        with pytest.raises(
            ToolError, match=rf"{path}: (permission denied|operation not permitted|it cannot be)"
        ):
            with open_root("/sys/kernel") as root:
                apply(root, [Change(Found(path, "absent"), b"x")], "key")


def test_what_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Between looking and renaming: changed, gone, or come into being."""
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "gone").write_bytes(b"one")
    with open_root(str(tmp_path)) as root:
        changes = {path: change(root, path, b"mine") for path in ("f", "gone", "new")}
        (tmp_path / "f").write_bytes(b"theirs")
        (tmp_path / "gone").unlink()
        (tmp_path / "new").symlink_to("f")
        for each in changes.values():
            with pytest.raises(Stale, match=f"{each.path} was changed by another program"):
                apply(root, [each], "key")
    assert contents(tmp_path) == {"f": b"theirs", "new": b"theirs"}


def test_several_files_are_rolled_back(tmp_path: Path) -> None:
    """When the last one cannot be renamed, the others are what they were: the old ones back, the new gone."""
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "a").chmod(0o640)
    (tmp_path / "z").write_bytes(b"two")
    with open_root(str(tmp_path)) as root:
        changes = [change(root, path, b"mine") for path in ("a", "new", "z")]
        (tmp_path / "z").write_bytes(b"theirs")
        with pytest.raises(Stale):
            apply(root, changes, "key")
    assert contents(tmp_path) == {"a": b"one", "z": b"theirs"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    """It is not replaced, and what was to be beside it is not, either."""
    with open_root(str(tmp_path)) as root:
        changes = [change(root, "a", b"mine"), change(root, "b", b"mine")]
        (tmp_path / "b").mkdir()
        with pytest.raises(Stale):
            apply(root, changes, "key")
    assert contents(tmp_path) == {}


def test_what_a_killed_call_left_is_overwritten(tmp_path: Path) -> None:
    """By the same call, when it is run again; a link in its place is not followed."""
    new, old = names_beside("key", "f")
    (tmp_path / "f").write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    (tmp_path / new).write_bytes(b"half")
    (tmp_path / old).symlink_to("/dev/null")
    make(tmp_path, f=b"after", g=b"after")
    assert contents(tmp_path) == {"f": b"after", "g": b"after"}


def test_put_back_and_tidy(tmp_path: Path) -> None:
    """What was replaced comes back, if it is what it should be; then nothing is left beside."""
    with open_root(str(tmp_path)) as root:
        for path in ("f", "g", "h"):
            _, old = names_beside("key", path)
            (tmp_path / path).write_bytes(b"after")
            if path != "h":
                (tmp_path / old).write_bytes(b"before")
        digest = look(root, names_beside("key", "f")[1]).digest
        put_back(root, "f", "key", digest)
        put_back(root, "g", "key", "0" * 64)
        put_back(root, "h", "key", digest)
        put_back(root, "gone/x", "key", digest)
        for path in ("f", "g", "h", "gone/x"):
            tidy(root, path, "key")
    assert contents(tmp_path) == {"f": b"before", "g": b"after", "h": b"after"}


def test_the_lock_keeps_others_out(tmp_path: Path) -> None:
    """Another daemon that works here waits, not for ever, and not if nobody wants it any more."""
    with open_root(str(tmp_path)) as root:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(GivenUp):
                with locked(root, _give_up):
                    raise AssertionError("held by two")
            with pytest.raises(ToolError, match="another program holds"), locked(root, wait_s=0.02):
                raise AssertionError("held by two")
        finally:
            os.close(descriptor)
        with locked(root), pytest.raises(BlockingIOError):
            fcntl.flock(other := os.open(tmp_path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def _give_up() -> None:
    raise GivenUp
