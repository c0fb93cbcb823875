"""What a file is found to be."""

import hashlib
import os
from pathlib import Path

import pytest

from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.files.looking import Found, look, pieces, still_wanted
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_EDIT_BYTES, MAX_HASHED_BYTES


def found(workspace: Path, path: str) -> Found:
    """What is there."""
    with open_root(str(workspace)) as root:
        return look(root, path)


def test_a_file(tmp_path: Path) -> None:
    """All that is needed to change it, and to see whether it was changed."""
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o640)
    first = found(tmp_path, "f")
    assert (first.digest, first.size) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert (first.content, first.mode, first.absent) == (b"abc", 0o640, False)
    os.link(tmp_path / "f", tmp_path / "other")
    assert found(tmp_path, "f").stamp == first.stamp
    (tmp_path / "f").write_bytes(b"abcd")
    assert found(tmp_path, "f").stamp != first.stamp


def test_no_file(tmp_path: Path) -> None:
    """Neither it nor its directory need be there; a file for a directory is another matter."""
    assert found(tmp_path, "gone").absent
    assert found(tmp_path, "gone/gone").absent
    (tmp_path / "f").write_text("")
    with pytest.raises(ToolError, match="not a directory"):
        found(tmp_path, "f/gone")


def test_a_large_file_is_hashed_and_not_kept(tmp_path: Path) -> None:
    """What nobody edits takes no memory; what takes too long to hash is refused."""
    content = b"x" * (MAX_EDIT_BYTES + 1)
    (tmp_path / "f").write_bytes(content)
    large = found(tmp_path, "f")
    assert (large.content, large.digest) == (None, hashlib.sha256(content).hexdigest())
    os.truncate(tmp_path / "f", MAX_HASHED_BYTES + 1)
    with pytest.raises(ToolError, match="file tools change nothing over"):
        found(tmp_path, "f")


def test_pieces_end_where_they_are_told_to(tmp_path: Path) -> None:
    """Also in a file that grows; and whoever does not want them any more is asked at each."""
    (tmp_path / "f").write_bytes(b"x" * 600_000)
    asked: list[None] = []
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert sum(map(len, pieces(descriptor, lambda: asked.append(None), 500_000))) == 500_000
        assert len(asked) == 2
    finally:
        os.close(descriptor)


def test_outside_of_a_thread_of_trio_everything_is_wanted() -> None:
    """Nobody could have cancelled it."""
    still_wanted()
