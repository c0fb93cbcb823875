"""Unix sockets of other processes, as the kernel lists them."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.sockets import find_sockets


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide a directory with sockets of each kind; it is the working directory."""
    work = tmp_path_factory.mktemp("w")
    (work / "sub").mkdir()
    (work / "link").symlink_to("sub")
    monkeypatch.chdir(work)
    sockets = []
    outside = f"{work}/../outside-{os.getpid()}"
    for name in (f"{work}/absolute", "./relative", f"{work}/link/a bé", "\0abstract/x", outside):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(name)
    yield work
    for unix_socket in sockets:
        unix_socket.close()
    (work.parent / f"outside-{os.getpid()}").unlink()


def test_sockets_are_found_by_their_path(work: Path) -> None:
    """Sockets are found under any name of their directory; abstract ones and those elsewhere are not."""
    bound = [f"{work}/absolute", f"{work}/relative", f"{work}/sub/a bé"]
    assert find_sockets([str(work)]) == bound
    assert find_sockets([str(work)], [f"{work}/sub"]) == bound[:2]
    assert find_sockets([f"{work}/sub"], [str(work)]) == bound[2:]
    (work / "absolute").unlink()
    (work / "relative").unlink()
    (work / "relative").touch()
    assert find_sockets([str(work)]) == [f"{work}/sub/a b\u00e9"]
    assert find_sockets([f"{work}/su"]) == []


def test_sockets_without_a_name(work: Path, tmp_path: Path) -> None:
    """The inode of a socket is no name, even if it is short and thus padded."""
    with socket.socket(socket.AF_UNIX) as numbered:
        numbered.bind("7")
        line = "0: 00000003 00000000 00000000 0001 03"
        (tmp_path / "table").write_text(f"Num Path\n{line}     7\n{line} 16385751\n")
        assert find_sockets([str(work)], table=tmp_path / "table") == []
        (tmp_path / "table").write_text(f"Num Path\n{line}     7 7\n{line} 16385751 absolute\n")
        assert find_sockets([str(work)], table=tmp_path / "table") == [f"{work}/7", f"{work}/absolute"]


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    """Without the table, and with one that makes no sense, nothing is found."""
    assert find_sockets(["/"], table=tmp_path / "none") == []
    (tmp_path / "table").write_bytes(b"Num\n\n1 2 3 4 5 6 7\n1: 2 3 4 5 6 7 /a\0b\n1: 2 3 4 5 6 7 /\xff\n")
    assert find_sockets(["/"], table=tmp_path / "table") == []
