"""The captures of a daemon: started, collected and read."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from kheishd.core.text.scrub import Scrubber
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.kernel.captures import NO_CAPTURE
from protocol.errors.run import DebugNotFound
from tests.support.captured import STEM
from tests.support.model_calls import make_request


@pytest.fixture
def files(tmp_path: Path) -> CaptureFiles:
    """Return the files of a home without captures."""
    return CaptureFiles(tmp_path / "debug")


@pytest.mark.parametrize(("level", "run_id"), [("off", "run_1"), ("full", "")])
async def test_calls_that_are_not_captured(files: CaptureFiles, level: Any, run_id: str) -> None:
    """A run without capture, and a call without a run, have no capture."""
    request = replace(make_request(debug=level), run_id=run_id)
    assert CaptureService(files).start(request) is NO_CAPTURE


async def test_reading_waits_for_queued_writes(files: CaptureFiles, nursery: trio.Nursery) -> None:
    """Artifacts queued earlier are read; a secret that has become known since is scrubbed."""
    captures = CaptureService(files)
    await nursery.start(captures.serve)
    with pytest.raises(DebugNotFound):
        await captures.list_artifacts("run_1")

    def write() -> None:
        artifacts = files.open_call("run_1", STEM)
        artifacts.write_whole("answer", b'{"key":"sk-0123456789"}')
        artifacts.close()

    captures.queue.put("run_1", 1, write)
    [artifact] = await captures.list_artifacts("run_1")
    captures.scrub(Scrubber(["sk-0123456789"]))
    _, text, next_offset = await captures.read_text("run_1", artifact.artifact_id, 0, 100)
    assert (text, next_offset) == ('{"key":"[scrubbed]"}', None)


async def test_collection_is_queued(files: CaptureFiles, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Captures that are too old by the wall clock are deleted."""
    captures = CaptureService(files, clock=lambda: 1e12)
    await nursery.start(captures.serve)
    captures.queue.put("run_1", 1, lambda: files.open_call("run_1", STEM).close())
    captures.collect(60.0, 1)
    await captures.queue.flush()
    assert not await trio.Path(tmp_path / "debug" / "run_1").exists()


async def test_each_daemon_has_its_own_key(files: CaptureFiles) -> None:
    """Digests of two daemons cannot be compared."""
    text = "x" * 100
    digests = {CaptureService(files).redactor.redact_text(text) for _ in range(2)}
    assert len(digests) == 2
