"""Captures as files: nobody else may look in, no link is followed, and no limit is exceeded."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.capture_files import (
    TRUNCATED_LINE,
    CallArtifacts,
    CaptureFiles,
    CaptureRefused,
    Limits,
)
from protocol.errors.run import ArtifactNotFound, DebugNotFound
from tests.support.desk import full_disk

STEM = "turn-0001-attempt-0001"
SMALL = Limits(artifact_bytes=100, run_bytes=250, artifacts=4)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where captures go; there is nothing yet."""
    return tmp_path / "debug"


def stem(number: int) -> str:
    """The name of a call."""
    return f"turn-{number:04d}-attempt-0001"


def capture(files: CaptureFiles, run_id: str, stem: str = STEM, size: int = 10) -> None:
    """A request of so many bytes."""
    sheaf = files.open(run_id, stem)
    sheaf.write("request", b"x" * size)
    sheaf.close()


def aged(directory: Path, run_id: str, at_s: float) -> None:
    """Have all of a run been written at a time."""
    for path in (*(directory / run_id).iterdir(), directory / run_id):
        os.utime(path, (at_s, at_s))


def names(files: CaptureFiles, run_id: str) -> list[str]:
    """The artifacts that a run has."""
    return [artifact.artifact_id for artifact in files.artifacts(run_id)]


def total(directory: Path) -> int:
    """The bytes of all files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# What is there.


def test_what_was_written_is_listed_and_read(directory: Path) -> None:
    """Each artifact in the order of a call, with its size and digest; its text is what was written."""
    files = CaptureFiles(directory)
    sheaf = files.open("run_1", STEM)
    sheaf.write("request", b'{"n":1}')
    sheaf.line(b'{"ms":1}\n')
    sheaf.line(b'{"ms":2}\n')
    sheaf.write("answer", b'{"n":2}')
    sheaf.close()
    found = files.artifacts("run_1")
    assert [artifact.kind for artifact in found] == ["request", "events", "answer"]
    assert [artifact.artifact_id for artifact in found] == [
        f"{STEM}-request.json",
        f"{STEM}-events.jsonl",
        f"{STEM}-answer.json",
    ]
    assert found[1].sha256 == hashlib.sha256(b'{"ms":1}\n{"ms":2}\n').hexdigest()
    assert (found[1].bytes, found[1].truncated) == (18, False)
    assert files.text("run_1", f"{STEM}-answer.json", 0, 100, Scrubber()) == (found[2], '{"n":2}', None)


def test_nobody_else_may_look_in(directory: Path) -> None:
    """Directories and files are private, whatever the umask, and made so where they were not."""
    directory.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        capture(CaptureFiles(directory), "run_1")
    finally:
        os.umask(before)
    for path in (directory, directory / "run_1"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "run_1" / f"{STEM}-request.json").stat().st_mode) == 0o600


def test_a_call_that_was_captured_before_is_not_overwritten(directory: Path) -> None:
    """The second one of a name is a second one."""
    files = CaptureFiles(directory)
    for size in (1, 2, 3):
        capture(files, "run_1", size=size)
    found = {artifact.artifact_id: artifact.bytes for artifact in files.artifacts("run_1")}
    assert found == {
        f"{STEM}-request.json": 1,
        f"{STEM}-again-0002-request.json": 2,
        f"{STEM}-again-0003-request.json": 3,
    }


def test_what_is_not_there(directory: Path) -> None:
    """A run without captures, an artifact that there is not, and whatever is no name of one."""
    files = CaptureFiles(directory)
    (directory.parent / "secret").write_text("secret")
    with pytest.raises(DebugNotFound):
        files.artifacts("run_1")
    capture(files, "run_1")
    (directory / "run_1" / "notes").write_text("none of ours")
    (directory / "run_1" / "turn-0001-attempt-0009-request.json").symlink_to(directory.parent / "secret")
    assert names(files, "run_1") == [f"{STEM}-request.json"]
    for run_id in ("run_2", "..", ".", "run_1/../run_1", "", "a" * 200):
        with pytest.raises(DebugNotFound):
            files.artifacts(run_id)
    for name in ("../../secret", "notes", f"{STEM}-answer.json", "turn-0001-attempt-0009-request.json"):
        with pytest.raises(ArtifactNotFound):
            files.text("run_1", name, 0, 100, Scrubber())


def test_a_text_is_read_in_parts(directory: Path) -> None:
    """No part ends inside a character, all of them together are the text, and beyond its end is nothing."""
    files, text = CaptureFiles(directory), "Grüße aus 東京 🗼" * 3
    sheaf = files.open("run_1", STEM)
    sheaf.write("request", text.encode())
    sheaf.close()
    for limit in (4, 5, 7, 1000):
        read, offset = [], 0
        while True:
            _, part, following = files.text("run_1", f"{STEM}-request.json", offset, limit, Scrubber())
            read.append(part)
            assert len(part.encode()) <= limit
            if following is None:
                break
            offset = following
        assert "".join(read) == text
    assert files.text("run_1", f"{STEM}-request.json", 1000, 4, Scrubber())[1:] == ("", None)


def test_what_became_a_secret_since_is_not_read(directory: Path) -> None:
    """A part is scrubbed on its way out, also of what lies across its ends."""
    files, secret = CaptureFiles(directory), "sk-0123456789"
    sheaf = files.open("run_1", STEM)
    sheaf.write("request", f"it is {secret}.".encode())
    sheaf.close()
    for limit in (4, 8, 100):
        read, offset = "", 0
        while offset < 20:
            _, part, _ = files.text("run_1", f"{STEM}-request.json", offset, limit, Scrubber([secret]))
            read, offset = read + part, offset + limit
        assert read == "it is [scrubbed]."


# Strangers' doing.


@pytest.mark.parametrize("what", ["debug", "run"])
def test_a_link_is_refused(directory: Path, tmp_path: Path, what: str) -> None:
    """A link in the place of a directory is neither followed nor removed, to write or to read."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "run":
        directory.mkdir()
    link = directory if what == "debug" else directory / "run_1"
    link.symlink_to(elsewhere)
    files = CaptureFiles(directory)
    with pytest.raises(CaptureRefused, match="is a link"):
        files.open("run_1", STEM)
    with pytest.raises(DebugNotFound):
        files.artifacts("run_1")
    if what == "run":
        files.collect(1e12, 1, 1)
    assert link.is_symlink()
    assert not list(elsewhere.iterdir())


def test_something_else_in_its_place(directory: Path) -> None:
    """A file in the place of the directory is refused, and so is an id that is no name."""
    directory.write_text("")
    with pytest.raises(CaptureRefused, match="no directory"):
        CaptureFiles(directory).open("run_1", STEM)
    directory.unlink()
    with pytest.raises(CaptureRefused, match="cannot be the name"):
        CaptureFiles(directory).open("..", STEM)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_another_users_directory_is_refused(directory: Path) -> None:
    """What somebody else owns is not written to."""
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    with pytest.raises(CaptureRefused, match="uid 12345"):
        CaptureFiles(directory).open("run_1", STEM)


# Limits.


def test_events_over_the_limit_are_left_out(directory: Path) -> None:
    """The last line says so, and none that fits comes after it."""
    files = CaptureFiles(directory, SMALL)
    sheaf = files.open("run_1", STEM)
    for size in (40, 60, 5):
        sheaf.line(b"y" * (size - 1) + b"\n")
    sheaf.truncate()
    sheaf.close()
    content = (directory / "run_1" / f"{STEM}-events.jsonl").read_bytes()
    assert content == b"y" * 39 + b"\n" + TRUNCATED_LINE
    assert files.artifacts("run_1")[0].truncated


def test_the_oldest_artifacts_of_a_run_are_evicted(directory: Path) -> None:
    """There are never more than so many, nor more bytes than so many; the newest are those that are left."""
    files = CaptureFiles(directory, SMALL)
    for number in range(1, 9):
        capture(files, "run_1", stem(number))
        os.utime(directory / "run_1" / f"{stem(number)}-request.json", (number, number))
    assert names(files, "run_1") == [f"{stem(number)}-request.json" for number in (5, 6, 7, 8)]
    sheaf = files.open("run_1", stem(9))
    for _ in range(8):
        sheaf.line(b"y" * 9 + b"\n")
        assert total(directory) <= SMALL.run_bytes
    sheaf.write("request", b"x" * 100)
    sheaf.write("answer", b"x" * 100)
    sheaf.close()
    assert total(directory) <= SMALL.run_bytes
    assert f"{stem(9)}-answer.json" in names(files, "run_1"), "what is newest stays"
    assert f"{stem(9)}-events.jsonl" in names(files, "run_1"), "and what is being written"


def test_events_that_grow_evict(directory: Path) -> None:
    """Lines that come when the run has no room left push out what is older than they."""
    files = CaptureFiles(directory, Limits(artifact_bytes=200, run_bytes=250, artifacts=9))
    capture(files, "run_1", stem(1), 100)
    capture(files, "run_1", stem(2), 100)
    sheaf = files.open("run_1", stem(3))
    for _ in range(14):
        sheaf.line(b"y" * 9 + b"\n")
        assert total(directory) <= 250
    sheaf.close()
    assert names(files, "run_1") == [f"{stem(2)}-request.json", f"{stem(3)}-events.jsonl"]


def test_all_captures_together_are_bounded(directory: Path) -> None:
    """The oldest runs go first, also what a daemon before this one captured; never one in the making."""
    before = CaptureFiles(directory)
    for number in range(3):
        capture(before, f"run_{number}", size=30)
        aged(directory, f"run_{number}", number)
    files = CaptureFiles(directory, max_bytes=100)
    sheaf = files.open("run_0", stem(2))
    sheaf.write("request", b"x" * 10)
    sheaf.write("answer", b"x" * 10)
    assert total(directory) <= 100
    assert sorted(path.name for path in directory.iterdir()) == ["run_0", "run_2"]
    sheaf.line(b"y" * 40)
    with pytest.raises(CaptureRefused, match=r"debug\.max_bytes"):
        sheaf.line(b"y" * 40)
    sheaf.close()
    assert [path.name for path in directory.iterdir()] == ["run_0"]
    capture(files, "run_3", size=40)
    assert [path.name for path in directory.iterdir()] == ["run_3"], "once it is written no more, it may go"


def test_collecting_by_age(directory: Path) -> None:
    """What is older than it may become goes; what is newer, or being written, or not ours, stays."""
    files = CaptureFiles(directory)
    for run_id in ("run_old", "run_new", "run_held", "run_kept"):
        capture(files, run_id)
    (directory / "run_kept" / "notes").write_text("somebody's")
    (directory / "notes").write_text("somebody's")
    for run_id, at_s in (("run_old", 1000), ("run_new", 2000), ("run_held", 1000), ("run_kept", 1000)):
        aged(directory, run_id, at_s)
    sheaf = files.open("run_held", stem(2))
    files.collect(2500, 0, 1000)
    assert len(list(directory.iterdir())) == 5, "0 is however old"
    files.collect(2500, 1000, 1000)
    sheaf.close()
    assert sorted(path.name for path in directory.rglob("*") if path.is_file()) == [
        "notes",
        "notes",
        f"{STEM}-request.json",
        f"{STEM}-request.json",
    ]
    assert sorted(path.name for path in directory.iterdir()) == ["notes", "run_held", "run_kept", "run_new"]


def test_collecting_by_size(directory: Path) -> None:
    """What is configured as the most counts from the next collection on."""
    files = CaptureFiles(directory)
    for number in range(10):
        capture(files, f"run_{number}", size=10)
        aged(directory, f"run_{number}", number)
    files.collect(10, 0, 50)
    assert sorted(path.name for path in directory.iterdir()) == [f"run_{number}" for number in range(6, 10)]


def test_collecting_nothing(directory: Path) -> None:
    """Where nothing was captured, nothing is made."""
    CaptureFiles(directory).collect(10, 1, 50)
    assert not directory.exists()


# Failing.


def test_a_full_disk_leaves_no_halves(directory: Path) -> None:
    """An artifact that cannot be written is not there; of events, the lines before stay whole."""
    files = CaptureFiles(directory)
    sheaf = files.open("run_1", STEM)
    sheaf.line(b"y" * 8000 + b"\n")
    with full_disk():
        with pytest.raises(OSError, match="File too large"):
            sheaf.line(b"z" * 8000 + b"\n")
        with pytest.raises(OSError, match="File too large"):
            sheaf.write("answer", b"x" * 9000)
    sheaf.close()
    assert (directory / "run_1" / f"{STEM}-events.jsonl").read_bytes() == b"y" * 8000 + b"\n"
    assert names(files, "run_1") == [f"{STEM}-events.jsonl"]


def test_what_is_too_long_is_a_fault_of_ours(directory: Path) -> None:
    """Whoever writes an artifact has cut it."""
    sheaf: CallArtifacts = CaptureFiles(directory, SMALL).open("run_1", STEM)
    with pytest.raises(AssertionError):
        sheaf.write("request", b"x" * 101)
    sheaf.close()
