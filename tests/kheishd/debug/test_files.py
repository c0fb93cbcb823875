"""The captures of a home: private files, within all limits."""

import hashlib
import os
from pathlib import Path

import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.debug.directories import TRUNCATED_LINE, CaptureRefused
from kheishd.debug.files import CallArtifacts, CaptureFiles, CaptureLimits
from protocol.errors.run import ArtifactNotFound, DebugNotFound
from tests.support.desk import full_disk

STEM = "turn-0001-attempt-0001"
SMALL = CaptureLimits(artifact_bytes=100, run_bytes=250, artifacts=4)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of all captures, which does not exist yet."""
    return tmp_path / "debug"


def stem(number: int) -> str:
    """Return the name of a call."""
    return f"turn-{number:04d}-attempt-0001"


def capture(files: CaptureFiles, run_id: str, stem: str = STEM, size: int = 10) -> None:
    """Capture a request of ``size`` bytes."""
    artifacts = files.open_call(run_id, stem)
    artifacts.write_whole("request", b"x" * size)
    artifacts.close()


def set_age(directory: Path, run_id: str, modified_s: float) -> None:
    """Set the time of a run's last write."""
    for path in (*(directory / run_id).iterdir(), directory / run_id):
        os.utime(path, (modified_s, modified_s))


def names(files: CaptureFiles, run_id: str) -> list[str]:
    """Return the names of a run's artifacts."""
    return [artifact.artifact_id for artifact in files.list_artifacts(run_id)]


def total_bytes(directory: Path) -> int:
    """Return the size of all files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# Artifacts.


def test_artifacts_are_listed_and_read(directory: Path) -> None:
    """Artifacts are listed in the order of a call, with size and digest; the text is the written one."""
    files = CaptureFiles(directory)
    artifacts = files.open_call("run_1", STEM)
    artifacts.write_whole("request", b'{"n":1}')
    artifacts.append_line(b'{"ms":1}\n')
    artifacts.append_line(b'{"ms":2}\n')
    artifacts.write_whole("answer", b'{"n":2}')
    artifacts.close()
    listed = files.list_artifacts("run_1")
    assert [artifact.kind for artifact in listed] == ["request", "events", "answer"]
    assert [artifact.artifact_id for artifact in listed] == [
        f"{STEM}-request.json",
        f"{STEM}-events.jsonl",
        f"{STEM}-answer.json",
    ]
    assert listed[1].sha256 == hashlib.sha256(b'{"ms":1}\n{"ms":2}\n').hexdigest()
    assert (listed[1].bytes, listed[1].truncated) == (18, False)
    assert files.read_text("run_1", f"{STEM}-answer.json", 0, 100, Scrubber()) == (listed[2], '{"n":2}', None)


def test_second_capture_of_a_call(directory: Path) -> None:
    """A second capture of a call does not overwrite the first."""
    files = CaptureFiles(directory)
    for size in (1, 2, 3):
        capture(files, "run_1", size=size)
    sizes = {artifact.artifact_id: artifact.bytes for artifact in files.list_artifacts("run_1")}
    assert sizes == {
        f"{STEM}-request.json": 1,
        f"{STEM}-again-0002-request.json": 2,
        f"{STEM}-again-0003-request.json": 3,
    }


def test_unknown_runs_and_artifacts(directory: Path) -> None:
    """A run without captures, a missing artifact, and a name that is not one of an artifact are not found."""
    files = CaptureFiles(directory)
    (directory.parent / "secret").write_text("secret")
    with pytest.raises(DebugNotFound):
        files.list_artifacts("run_1")
    capture(files, "run_1")
    (directory / "run_1" / "notes").write_text("of a user")
    (directory / "run_1" / "turn-0001-attempt-0009-request.json").symlink_to(directory.parent / "secret")
    assert names(files, "run_1") == [f"{STEM}-request.json"]
    for run_id in ("run_2", "..", ".", "run_1/../run_1", "", "a" * 200):
        with pytest.raises(DebugNotFound):
            files.list_artifacts(run_id)
    for name in ("../../secret", "notes", f"{STEM}-answer.json", "turn-0001-attempt-0009-request.json"):
        with pytest.raises(ArtifactNotFound):
            files.read_text("run_1", name, 0, 100, Scrubber())


def test_reading_in_parts(directory: Path) -> None:
    """No part ends inside a character, the joined parts are the text, and nothing follows its end."""
    files, text = CaptureFiles(directory), "Grüße aus 東京 🗼" * 3
    artifacts = files.open_call("run_1", STEM)
    artifacts.write_whole("request", text.encode())
    artifacts.close()
    for limit in (4, 5, 7, 1000):
        parts, offset = list[str](), 0
        while True:
            _, part, next_offset = files.read_text("run_1", f"{STEM}-request.json", offset, limit, Scrubber())
            parts.append(part)
            assert len(part.encode()) <= limit
            if next_offset is None:
                break
            offset = next_offset
        assert "".join(parts) == text
    assert files.read_text("run_1", f"{STEM}-request.json", 1000, 4, Scrubber())[1:] == ("", None)


def test_newer_secrets_are_scrubbed(directory: Path) -> None:
    """A secret that became known after the capture is scrubbed, even if it is split across parts."""
    files, secret = CaptureFiles(directory), "sk-0123456789"
    artifacts = files.open_call("run_1", STEM)
    artifacts.write_whole("request", f"it is {secret}.".encode())
    artifacts.close()
    for limit in (4, 8, 100):
        read, offset = "", 0
        while offset < 20:
            _, part, _ = files.read_text("run_1", f"{STEM}-request.json", offset, limit, Scrubber([secret]))
            read, offset = read + part, offset + limit
        assert read == "it is [scrubbed]."


# Other users.


@pytest.mark.parametrize("level", ["debug", "run"])
def test_links_are_refused(directory: Path, tmp_path: Path, level: str) -> None:
    """A link in the place of a directory is neither followed nor removed, for writing or reading."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if level == "run":
        directory.mkdir()
    link = directory if level == "debug" else directory / "run_1"
    link.symlink_to(elsewhere)
    files = CaptureFiles(directory)
    with pytest.raises(CaptureRefused, match="is a link"):
        files.open_call("run_1", STEM)
    with pytest.raises(DebugNotFound):
        files.list_artifacts("run_1")
    if level == "run":
        files.collect(1e12, 1, 1)
    assert link.is_symlink()
    assert not list(elsewhere.iterdir())


# Limits.


def test_too_many_events(directory: Path) -> None:
    """The last line marks the truncation; no shorter line follows it."""
    files = CaptureFiles(directory, SMALL)
    artifacts = files.open_call("run_1", STEM)
    for size in (40, 60, 5):
        artifacts.append_line(b"y" * (size - 1) + b"\n")
    artifacts.truncate()
    artifacts.close()
    content = (directory / "run_1" / f"{STEM}-events.jsonl").read_bytes()
    assert content == b"y" * 39 + b"\n" + TRUNCATED_LINE
    assert files.list_artifacts("run_1")[0].truncated


def test_oldest_artifacts_of_a_run_are_deleted(directory: Path) -> None:
    """Neither the number of artifacts nor their size exceeds its limit; the newest remain."""
    files = CaptureFiles(directory, SMALL)
    for number in range(1, 9):
        capture(files, "run_1", stem(number))
        os.utime(directory / "run_1" / f"{stem(number)}-request.json", (number, number))
    assert names(files, "run_1") == [f"{stem(number)}-request.json" for number in (5, 6, 7, 8)]
    artifacts = files.open_call("run_1", stem(9))
    for _ in range(8):
        artifacts.append_line(b"y" * 9 + b"\n")
        assert total_bytes(directory) <= SMALL.run_bytes
    artifacts.write_whole("request", b"x" * 100)
    artifacts.write_whole("answer", b"x" * 100)
    artifacts.close()
    assert total_bytes(directory) <= SMALL.run_bytes
    assert f"{stem(9)}-answer.json" in names(files, "run_1"), "the newest stays"
    assert f"{stem(9)}-events.jsonl" in names(files, "run_1"), "and so does an open one"


def test_growing_events_delete_older_artifacts(directory: Path) -> None:
    """New lines of a run at its limit replace older artifacts."""
    files = CaptureFiles(directory, CaptureLimits(artifact_bytes=200, run_bytes=250, artifacts=9))
    capture(files, "run_1", stem(1), 100)
    capture(files, "run_1", stem(2), 100)
    artifacts = files.open_call("run_1", stem(3))
    for _ in range(14):
        artifacts.append_line(b"y" * 9 + b"\n")
        assert total_bytes(directory) <= 250
    artifacts.close()
    assert names(files, "run_1") == [f"{stem(2)}-request.json", f"{stem(3)}-events.jsonl"]


def test_total_size_is_bounded(directory: Path) -> None:
    """The oldest runs are deleted first, including those of an earlier daemon; never an open one."""
    earlier = CaptureFiles(directory)
    for number in range(3):
        capture(earlier, f"run_{number}", size=30)
        set_age(directory, f"run_{number}", number)
    files = CaptureFiles(directory, max_bytes=100)
    artifacts = files.open_call("run_0", stem(2))
    artifacts.write_whole("request", b"x" * 10)
    artifacts.write_whole("answer", b"x" * 10)
    assert total_bytes(directory) <= 100
    assert sorted(path.name for path in directory.iterdir()) == ["run_0", "run_2"]
    artifacts.append_line(b"y" * 40)
    with pytest.raises(CaptureRefused, match=r"debug\.max_bytes"):
        artifacts.append_line(b"y" * 40)
    artifacts.close()
    assert [path.name for path in directory.iterdir()] == ["run_0"]
    capture(files, "run_3", size=40)
    assert [path.name for path in directory.iterdir()] == ["run_3"], "a closed run may be deleted"


def test_collection_by_age(directory: Path) -> None:
    """Older runs are deleted; newer and open ones and other files stay."""
    files = CaptureFiles(directory)
    for run_id in ("run_old", "run_new", "run_open", "run_notes"):
        capture(files, run_id)
    (directory / "run_notes" / "notes").write_text("of a user")
    (directory / "notes").write_text("of a user")
    for run_id, at_s in (("run_old", 1000), ("run_new", 2000), ("run_open", 1000), ("run_notes", 1000)):
        set_age(directory, run_id, at_s)
    artifacts = files.open_call("run_open", stem(2))
    files.collect(2500, 0, 1000)
    assert len(list(directory.iterdir())) == 5, "0 deletes nothing by age"
    files.collect(2500, 1000, 1000)
    artifacts.close()
    assert sorted(path.name for path in directory.rglob("*") if path.is_file()) == [
        "notes",
        "notes",
        f"{STEM}-request.json",
        f"{STEM}-request.json",
    ]
    assert sorted(path.name for path in directory.iterdir()) == ["notes", "run_new", "run_notes", "run_open"]


def test_collection_by_size(directory: Path) -> None:
    """A new limit on the total size applies from the next collection."""
    files = CaptureFiles(directory)
    for number in range(10):
        capture(files, f"run_{number}", size=10)
        set_age(directory, f"run_{number}", number)
    files.collect(10, 0, 50)
    assert sorted(path.name for path in directory.iterdir()) == [f"run_{number}" for number in range(6, 10)]


def test_collection_without_captures(directory: Path) -> None:
    """A collection does not create the directory."""
    CaptureFiles(directory).collect(10, 1, 50)
    assert not directory.exists()


# Failures.


def test_full_disk(directory: Path) -> None:
    """An artifact that cannot be written leaves no file; earlier lines of events stay complete."""
    files = CaptureFiles(directory)
    artifacts = files.open_call("run_1", STEM)
    artifacts.append_line(b"y" * 8000 + b"\n")
    with full_disk():
        with pytest.raises(OSError, match="File too large"):
            artifacts.append_line(b"z" * 8000 + b"\n")
        with pytest.raises(OSError, match="File too large"):
            artifacts.write_whole("answer", b"x" * 9000)
    artifacts.close()
    assert (directory / "run_1" / f"{STEM}-events.jsonl").read_bytes() == b"y" * 8000 + b"\n"
    assert names(files, "run_1") == [f"{STEM}-events.jsonl"]


def test_content_over_the_limit(directory: Path) -> None:
    """The caller must truncate the content."""
    artifacts: CallArtifacts = CaptureFiles(directory, SMALL).open_call("run_1", STEM)
    with pytest.raises(AssertionError):
        artifacts.write_whole("request", b"x" * 101)
    artifacts.close()
