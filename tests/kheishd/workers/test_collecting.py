"""Removing captures: at the start, every hour, and by what is configured by then."""

import os
from pathlib import Path

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.debug import DebugSection
from kheishd.kernel.capture_files import CaptureFiles
from kheishd.kernel.captures import Captures
from kheishd.kernel.holder import RuntimeHolder
from kheishd.workers.collecting import COLLECT_SECONDS, Collector
from protocol.limits.units import MIB
from tests.support.desk import EPOCH_MS, wall_clock
from tests.support.model_asking import inline
from tests.support.runtimes import change_runtime, make_runtime

HOUR = 3600.0


def captured(files: CaptureFiles, directory: Path, run_id: str, age_s: float) -> None:
    """A capture of that age when the clock starts."""
    sheaf = files.open(run_id, "turn-0001-attempt-0001")
    sheaf.write("answer", b"{}")
    sheaf.close()
    at_s = EPOCH_MS / 1000 - age_s
    for path in (*(directory / run_id).iterdir(), directory / run_id):
        os.utime(path, (at_s, at_s))


def there(directory: Path) -> list[str]:
    """What a directory holds."""
    return sorted(path.name for path in directory.iterdir())


async def after(clock: MockClock, seconds: float) -> None:
    """Once so much time has passed, and all that it brings has been done."""
    clock.jump(seconds)
    await wait_all_tasks_blocked()


async def test_collecting(tmp_path: Path, mock_clock: MockClock) -> None:
    """What is too old goes at the start; what becomes so, within an hour; a reload counts from then on."""
    files, directory = CaptureFiles(tmp_path / "debug"), tmp_path / "debug"
    captures = Captures(files, in_thread=inline, clock=lambda: wall_clock() / 1000)
    for run_id, age_s in (("run_old", 49 * HOUR), ("run_middle", 47.5 * HOUR), ("run_new", HOUR)):
        captured(files, directory, run_id, age_s)
    first = make_runtime(debug=DebugSection(max_age_s=48 * HOUR, max_bytes=100 * MIB))
    holder = RuntimeHolder(first, lambda old: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(captures.serve)
        await nursery.start(Collector(captures, holder).serve)
        await after(mock_clock, 1)
        assert there(directory) == ["run_middle", "run_new"]
        await after(mock_clock, COLLECT_SECONDS)
        assert there(directory) == ["run_new"]
        holder.replace(
            change_runtime(first, generation=2, debug=DebugSection(max_age_s=HOUR, max_bytes=100 * MIB))
        )
        await after(mock_clock, COLLECT_SECONDS - 2)
        assert there(directory) == ["run_new"]
        await after(mock_clock, 2)
        assert there(directory) == []
        nursery.cancel_scope.cancel()


async def test_collecting_harms_nobody(tmp_path: Path, mock_clock: MockClock) -> None:
    """A directory that is not to be looked into is left alone; the next hour comes all the same."""
    (tmp_path / "debug").symlink_to(tmp_path)
    captures = Captures(CaptureFiles(tmp_path / "debug"), in_thread=inline)
    holder = RuntimeHolder(make_runtime(), lambda old: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(captures.serve)
        await nursery.start(Collector(captures, holder).serve)
        for _ in range(3):
            await after(mock_clock, COLLECT_SECONDS)
        nursery.cancel_scope.cancel()
    assert there(tmp_path) == ["debug"]
