"""The shell worker on a real store, with real processes: tasks follow their processes, over restarts, too."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.hooks.leftovers import home_id
from kheishd.objects.work.shell import ShellOutcome, record_ended, record_started
from kheishd.records.doctor import examine_whole
from kheishd.workers import shells as module
from protocol.errors.store import StorageFull
from protocol.events.task import TaskDeleted, TaskEnded
from tests.support.commands import come_with, running_with
from tests.support.runtimes import make_runtime
from tests.support.shells import yard

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_shell_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """Its process is written down while it runs, and how it ended once nothing of it does."""
    async with yard(tmp_path) as yard_, yard_.worked() as worker:
        await yard_.begin("echo one; until [ -e go ]; do sleep 0.02; done; exit 4")
        await yard_.wrote("one")
        await yard_.desk.until(lambda: yard_.task()[1].pid is not None)
        task, shell = yard_.task()
        assert (task.status, worker.active) == ("in_progress", 1)
        assert os.getpgid(shell.pid or 0) == shell.pid
        (tmp_path / "work" / "go").touch()
        task, shell = await yard_.ended()
        assert (task.status, shell.exit_code, shell.terminal_reason) == ("failed", 4, "exited")
        assert (shell.output_bytes, shell.output_kept_bytes) == (4, 4)
        assert yard_.kinds() == ["task_created", "task_started", "task_ended"]
        assert examine_whole(yard_.desk.state.read, deep=True).findings == []
    assert worker.active == 0


async def test_they_run_side_by_side(tmp_path: Path) -> None:
    """One that ends leaves the others alone."""
    async with yard(tmp_path) as yard_, yard_.worked():
        await yard_.begin("until [ -e b ]; do sleep 0.02; done; touch a", "first")
        await yard_.begin("touch b; until [ -e a ]; do sleep 0.02; done", "second")
        assert (await yard_.ended("first"))[0].status == "completed"
        assert (await yard_.ended("second"))[0].status == "completed"


async def test_somebody_stops_one(tmp_path: Path) -> None:
    """It was cancelled, for the reason of the first who did."""
    async with yard(tmp_path) as yard_, yard_.worked():
        await yard_.begin("echo ready; exec sleep 4200.5")
        await yard_.begin("exec sleep 4201.5", "other")
        await yard_.wrote("ready")
        await yard_.stop(reason="enough")
        task, shell = await yard_.ended()
        assert (task.status, task.note, shell.terminal_reason) == ("cancelled", "enough", "stopped")
        assert shell.exit_code == 143
        assert running_with("4200.5") == []
        await trio.to_thread.run_sync(come_with, "4201.5", 1)
        assert yard_.task("other")[0].status != "cancelled"


async def test_one_that_is_stopped_before_anybody_looks(tmp_path: Path) -> None:
    """Never begins."""
    async with yard(tmp_path) as yard_:
        async with yard_.worked():
            # Both in one transaction: it was never seen alive.
            await yard_.begin("touch begun")
            await yard_.stop()
            task, _ = await yard_.ended()
        assert task.status == "cancelled"


async def test_what_cannot_be_started_has_failed(tmp_path: Path) -> None:
    """And says why, to the model, too."""
    async with yard(tmp_path) as yard_, yard_.worked():
        (tmp_path / "work" / "file").write_text("")
        await yard_.begin("true", workdir="file")
        task, shell = await yard_.ended()
        assert (task.status, shell.terminal_reason) == ("failed", "not_started")
        (note,) = [e.note for _, e in yard_.desk.journal("s") if isinstance(e, TaskEnded)]
        assert "could not be started" in note
        assert shell.problem in note


async def test_what_is_readable_is_what_is_configured_now(tmp_path: Path, bubblewrap: None) -> None:
    """A sandboxed shell sees what the configuration in force names besides the system."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "book").write_text("words")
    async with yard(tmp_path) as yard_, yard_.worked():
        workspace = WorkspaceSection(readable=[str(tmp_path / "library")])
        yard_.desk.holder.replace(make_runtime(2, workspace=workspace))
        await yard_.begin(f"cat {tmp_path}/library/book", boxed=True)
        assert (await yard_.ended())[0].status == "completed"


# Stopping.


async def test_a_daemon_that_stops_ends_them_in_order(tmp_path: Path) -> None:
    """Each can put something away; their tasks say what became of them; nothing of them runs."""
    async with yard(tmp_path) as yard_:
        async with yard_.worked():
            await yard_.begin("trap 'echo put away; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
            await yard_.begin("echo ready; exec sleep 4202.5", "other")
            await yard_.wrote("ready")
            await yard_.wrote("ready", "other")
        for task_id, code in (("t", 0), ("other", 143)):
            task, shell = yard_.task(task_id)
            assert (task.status, shell.terminal_reason) == ("failed", "daemon_stopped")
            assert shell.exit_code == code
        assert "put away\n" in (await yard_.files.read("t", 100)).text
        assert running_with("4202.5") == []


async def test_one_that_has_just_begun_when_the_daemon_stops(tmp_path: Path) -> None:
    """Its task says so, and however far it had come, nothing of it runs."""
    async with yard(tmp_path) as yard_:
        async with yard_.worked():
            await yard_.begin("exec sleep 4205.5")
        task, shell = yard_.task()
        assert (task.status, shell.terminal_reason) == ("failed", "daemon_stopped")
        assert running_with("4205.5") == []


# What a daemon left that died.


async def test_what_a_daemon_left_is_ended_before_anybody_is_told(tmp_path: Path, bubblewrap: None) -> None:
    """Leftovers are killed by their mark; the file stays; what had not begun does not begin."""
    async with yard(tmp_path) as yard_:
        await yard_.begin("never run", "pending")
        await yard_.begin("ran")
        await yard_.desk.state.update(lambda tx: record_started(tx, "t", 1, 2))
        log = yard_.files.log("t")
        log.begin()
        log.write(b"so far\n")
        log.close()
        mark = f"{home_id(yard_.home)}.t"
        left = await trio.lowlevel.open_process(["sleep", "4203.5"], env={"KHEISH_CALL": mark})
        async with yard_.worked():
            # The worker has begun: everything is as it is now.
            task, shell = yard_.task()
            assert (task.status, shell.terminal_reason) == ("failed", "daemon_restarted")
            assert (shell.output_bytes, shell.exit_code) == (7, None)
            pending, unbegun = yard_.task("pending")
            assert (pending.status, unbegun.problem) == ("failed", "it had hardly begun, if at all")
            assert await left.wait() == -9
        assert (await yard_.files.read("t", 100)).text == "so far\n"
        assert yard_.kinds()[-2:] == ["task_ended", "task_ended"]


DAEMON = """
import sys, trio
from pathlib import Path
from tests.support.shells import yard

async def main():
    async with yard(Path(sys.argv[1])) as yard_, yard_.worked():
        await yard_.begin("echo begun; exec sleep 4204.5")
        await yard_.wrote("begun")
        print("ready", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_daemon_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    """Its shells end with it; the next one says so, and what they wrote can still be read."""
    argv = [sys.executable, "-c", DAEMON, str(tmp_path)]
    root = Path(__file__).parents[3]
    daemon = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE, cwd=root)
    assert daemon.stdout is not None
    try:
        assert (await daemon.stdout.receive_some()).startswith(b"ready")
    finally:
        daemon.kill()
        await daemon.wait()
        await daemon.stdout.aclose()
    async with yard(tmp_path) as yard_, yard_.worked():
        task, shell = yard_.task()
        assert running_with("4204.5") == []
        assert (task.status, shell.terminal_reason, shell.output_bytes) == ("failed", "daemon_restarted", 6)
        assert (await yard_.files.read("t", 100)).text == "begun\n"


# What goes wrong.


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of a shell is written down once there is room."""
    monkeypatch.setattr(module, "SAVE_AGAIN_SECONDS", 0.01)
    tried = []

    def ended(tx: Any, task_id: str, over: ShellOutcome) -> None:
        tried.append(over)
        if len(tried) < 3:
            raise StorageFull
        real(tx, task_id, over)

    real: Callable[..., None] = record_ended
    async with yard(tmp_path) as yard_, yard_.worked():
        monkeypatch.setattr(module, "record_ended", ended)
        await yard_.begin("true")
        assert (await yard_.ended())[0].status == "completed"
        assert len(tried) == 3


async def test_a_fault_is_one_shell_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has failed, its neighbours go on, and the log says more."""
    async with yard(tmp_path) as yard_, yard_.worked():
        real = yard_.starter.running

        def running(task_id: str, *rest: Any) -> Any:
            if task_id == "bad":
                raise RuntimeError("a fault")
            return real(task_id, *rest)

        monkeypatch.setattr(yard_.starter, "running", running)
        await yard_.begin("true", "bad")
        await yard_.begin("true", "good")
        task, shell = await yard_.ended("bad")
        assert (task.status, shell.terminal_reason) == ("failed", "exit_unknown")
        assert shell.problem == module.FAILED
        assert (await yard_.ended("good"))[0].status == "completed"
    assert "a fault" in caplog.text


async def test_one_that_cannot_be_written_down_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not started again and again; the next daemon says what became of it."""
    async with yard(tmp_path) as yard_:
        with monkeypatch.context() as patch:
            async with yard_.worked() as worker:

                def broken(*args: Any, **more: Any) -> None:
                    raise RuntimeError("no such luck")

                patch.setattr(module, "record_ended", broken)
                await yard_.begin("echo x >> count")
                await yard_.begin("true", "other")
                with trio.fail_after(20):
                    while worker.active or "no such luck" not in caplog.text:
                        await trio.lowlevel.checkpoint()
        async with yard_.worked():
            assert yard_.task()[1].terminal_reason == "daemon_restarted"
        assert (tmp_path / "work" / "count").read_text() == "x\n"


async def test_files_of_deleted_tasks_go(tmp_path: Path) -> None:
    """Once another shell begins; those of others stay."""
    async with yard(tmp_path) as yard_, yard_.worked():
        for task_id in ("one", "two"):
            await yard_.begin("echo x", task_id)
            await yard_.ended(task_id)
        await yard_.append(TaskDeleted(task_id="one"))
        (tmp_path / "home" / "run" / "shells" / "stranger").write_text("of no task")
        await yard_.begin("echo x", "three")
        await yard_.ended("three")
        assert await yard_.files.names() == ["three", "two"]
