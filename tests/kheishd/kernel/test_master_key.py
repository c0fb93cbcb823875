"""Master keys: their sources and formats, and files that must not be used."""

import os
import stat
from base64 import b64encode
from pathlib import Path

import pytest

from kheishd.kernel.master_key import MasterKeys, read_master_keys, write_master_keys
from protocol.errors.secret import MasterKeyUnusable

ONE, TWO = bytes(range(32)), bytes(range(100, 132))
LINE = b64encode(ONE) + b"\n"


def put(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write a file with a mode."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def read(home: Path, **environ: str) -> MasterKeys:
    """Read the keys of a home."""
    return read_master_keys(home, environ)


def test_a_home_without_a_key(tmp_path: Path) -> None:
    """There is no key, and none is made by reading."""
    assert read(tmp_path) == MasterKeys(str(tmp_path / "master.key"))
    assert not list(tmp_path.iterdir())


def test_a_written_key(tmp_path: Path) -> None:
    """A written file is private and is read again; it replaces another one only if told to."""
    path = tmp_path / "master.key"
    write_master_keys(path, [ONE], replaces=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(tmp_path).keys == (ONE,)
    with pytest.raises(MasterKeyUnusable, match="File exists"):
        write_master_keys(path, [TWO], replaces=False)
    assert read(tmp_path).keys == (ONE,)
    write_master_keys(path, [TWO, ONE], replaces=True)
    assert read(tmp_path).keys == (TWO, ONE)
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]
    with pytest.raises(MasterKeyUnusable, match="cannot be written"):
        write_master_keys(tmp_path / "none" / "master.key", [ONE], replaces=False)


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (ONE, (ONE,)),
        (LINE, (ONE,)),
        (b"# the key of 2026\n\n  " + LINE.strip() + b"  \r\n" + b64encode(TWO), (ONE, TWO)),
        (LINE + LINE, (ONE,)),
    ],
)
def test_a_named_file(tmp_path: Path, content: bytes, keys: tuple[bytes, ...]) -> None:
    """A file has 32 bytes, or lines of base64 with comments; it may be a link and read-only."""
    put(tmp_path / "key", content, 0o400)
    (tmp_path / "link").symlink_to("key")
    found = read(tmp_path, KHEISH_MASTER_KEY_FILE=str(tmp_path / "link"))
    assert found == MasterKeys(str(tmp_path / "link"), keys, is_generated=False)


def test_a_credential(tmp_path: Path) -> None:
    """The service manager's credential is used; without one of that name there is none."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(directory)}
    assert read(tmp_path, **environ).is_generated
    put(directory / "master", LINE, 0o440)
    assert read(tmp_path, **environ).keys == (ONE,)
    with pytest.raises(MasterKeyUnusable, match="two master keys"):
        read(tmp_path, **environ, KHEISH_MASTER_KEY_FILE="/x")


def test_the_key_of_the_home_still_opens(tmp_path: Path) -> None:
    """Beside another source, the generated key opens what it sealed."""
    put(tmp_path / "master.key", LINE)
    put(tmp_path / "key", b64encode(TWO))
    assert read(tmp_path, KHEISH_MASTER_KEY_FILE=str(tmp_path / "key")).keys == (TWO, ONE)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"x" * 32, "line 1 of the master key"),
        (ONE[:31], "line 1"),
        (LINE + b"nonsense", "line 2"),
        (b64encode(ONE[:16]), "line 1"),
        (LINE * 100, "more than 4096 bytes"),
    ],
)
def test_a_file_that_is_no_key(tmp_path: Path, content: bytes, problem: str) -> None:
    """The problem names the file and the line, and never shows the content."""
    put(tmp_path / "master.key", content)
    with pytest.raises(MasterKeyUnusable) as caught:
        read(tmp_path)
    assert problem in caught.value.message
    assert "nonsense" not in caught.value.message


def test_a_file_of_the_wrong_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that others may read, a link, a pipe, a directory, or one of another user is refused."""
    path = put(tmp_path / "master.key", LINE, 0o640)
    with pytest.raises(MasterKeyUnusable, match="chmod 600"):
        read(tmp_path)
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if path.stat().st_uid != 0:
        with pytest.raises(MasterKeyUnusable, match="belongs to the user"):
            read(tmp_path)
    monkeypatch.undo()
    path.rename(tmp_path / "real")
    path.symlink_to("real")
    with pytest.raises(MasterKeyUnusable, match="cannot be read"):
        read(tmp_path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(MasterKeyUnusable, match="not a regular file"):
        read(tmp_path)
    with pytest.raises(MasterKeyUnusable, match="No such file"):
        read(tmp_path / "none", KHEISH_MASTER_KEY_FILE=str(tmp_path / "missing"))
