"""Background shells on a real store, with real processes: tasks follow them, also over restarts."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from kheishd.config.sections.config import Config
from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.core.text.scrub import Scrubber
from kheishd.hooks.os.shell.log import ShellLog
from kheishd.hooks.os.shell.process import home_id
from kheishd.objects.work.shell import ShellOutcome, record_ended, record_started
from kheishd.records.doctor import examine_whole
from kheishd.workers import shells as module
from kheishd.workers.shells import MAX_STOP_SECONDS, BackgroundShell
from protocol.errors.store import StorageFull
from protocol.events.task import TaskDeleted, TaskEnded
from protocol.limits.shell import MAX_SHELL_OUTPUT_BYTES
from protocol.limits.units import MIB
from tests.support.commands import running_with, wait_ended, wait_for_processes
from tests.support.gates import make_gate
from tests.support.runtimes import make_runtime
from tests.support.shells import Yard, yard

if TYPE_CHECKING:
    from collections.abc import Callable


async def discard(fn: object) -> None:
    """Commit nothing."""


def shell(yard: Yard, *, stall_s: float = 45.0) -> BackgroundShell:
    """Return the shell of the task ``t``."""
    return BackgroundShell(yard.task()[0], yard.desk.live, yard.files, discard, stall_s=stall_s)


async def run(yard: Yard, command: str) -> ShellOutcome:
    """Run a command to its own end; return how it ended."""
    await yard.begin(command)
    return await shell(yard).run(yard.starter, Config(), make_gate())


# One shell.


async def test_the_exit_code_and_the_output_are_known(tmp_path: Path) -> None:
    """Standard output and standard error are stored in their order, completely."""
    async with yard(tmp_path) as yard_:
        over = await run(yard_, "echo out; echo err >&2; echo end; exit 3")
        assert over == ShellOutcome("exited", 3, "", 12, 12)
        assert (await yard_.files.read("t", 100)).text == "out\nerr\nend\n"


async def test_standard_input_is_empty(tmp_path: Path) -> None:
    """A command that reads its input gets an end of file at once."""
    async with yard(tmp_path) as yard_:
        assert (await run(yard_, "read x || echo nothing")).exit_code == 0
        assert (await yard_.files.read("t", 100)).text == "nothing\n"


async def test_child_processes_are_killed_with_the_shell(tmp_path: Path) -> None:
    """A child is killed even if it has left the process group and closed the output."""
    async with yard(tmp_path) as yard_:
        over = await run(yard_, "setsid sleep 4100.5 & echo begun")
        assert over.why == "exited"
        assert running_with("4100.5") == []


async def test_a_stopped_shell_may_clean_up(tmp_path: Path) -> None:
    """The command is asked first, no process of it is left, and the first cause counts."""
    async with yard(tmp_path) as yard_:
        await yard_.begin("trap 'echo put away; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
        background = shell(yard_)

        async def stop() -> None:
            await yard_.wait_for_output("ready")
            background.stop("stopped")
            background.stop("daemon_stopped")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            over = await background.run(yard_.starter, Config(), make_gate())
        assert (over.why, over.exit_code) == ("stopped", 0)
        assert "put away\n" in (await yard_.files.read("t", 100)).text


async def test_a_shell_that_ignores_the_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace period all processes of the shell are killed."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    async with yard(tmp_path) as yard_:
        await yard_.begin(
            "trap '' TERM; (trap '' TERM; exec sleep 4101.5) & echo ready; sleep 4101.5; sleep 1"
        )
        background = shell(yard_)

        async def stop() -> None:
            await yard_.wait_for_output("ready")
            await trio.to_thread.run_sync(wait_for_processes, "4101.5", 2)
            background.stop("daemon_stopped")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            over = await background.run(yard_.starter, Config(), make_gate())
        assert (over.why, over.exit_code) == ("daemon_stopped", 128 + signal.SIGKILL)
        assert running_with("4101.5") == []


async def test_a_shell_that_is_stopped_before_it_begins_never_begins(tmp_path: Path) -> None:
    """The command is not started at all."""
    async with yard(tmp_path) as yard_:
        await yard_.begin(f"touch {tmp_path}/begun")
        background = shell(yard_)
        background.stop("stopped")
        over = await background.run(yard_.starter, Config(), make_gate())
        assert over == ShellOutcome("stopped", None, "it had not begun")
        assert not (tmp_path / "begun").exists()


async def test_a_command_that_cannot_be_started_has_a_problem(tmp_path: Path) -> None:
    """The outcome names the cause."""
    async with yard(tmp_path) as yard_:
        await yard_.begin("true", workdir="file")
        (tmp_path / "work" / "file").write_text("no directory")
        over = await shell(yard_).run(yard_.starter, Config(), make_gate())
        assert over.why == "not_started"
        assert "file" in over.problem


async def test_the_exit_is_unknown_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """No exit code is made up, and no process of the command runs."""
    async with yard(tmp_path) as yard_:
        over = await run(yard_, "kill -9 $PPID; sleep 4102.5")
        assert (over.why, over.exit_code) == ("exit_unknown", None)
        assert running_with("4102.5") == []


async def test_endless_output_keeps_its_end(tmp_path: Path) -> None:
    """The newest output is stored, and its total size is known."""
    async with yard(tmp_path) as yard_:
        over = await run(yard_, f"head -c {20 * MIB} /dev/zero | tr '\\0' x; echo; echo the end")
        assert over.output_bytes == 20 * MIB + 9
        assert over.output_kept_bytes <= MAX_SHELL_OUTPUT_BYTES
        assert (await yard_.files.read("t", 9)).text == "\nthe end\n"


async def test_fast_output_is_slowed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell cannot use up the disk's bandwidth; none of its output is lost."""
    monkeypatch.setattr(module, "BURST_SECONDS", 0.0)
    async with yard(tmp_path) as yard_:
        began = trio.current_time()
        over = await run(yard_, f"head -c {4 * MIB} /dev/zero | tr '\\0' x")
        assert over.output_bytes == 4 * MIB
        assert trio.current_time() - began > 0.4


async def test_invalid_utf_8_becomes_text(tmp_path: Path) -> None:
    """Characters survive a cut between two reads; invalid bytes are replaced."""
    async with yard(tmp_path) as yard_:
        await run(yard_, r"printf '\303'; sleep 0.1; printf '\251 \377\376 x'")
        assert (await yard_.files.read("t", 100)).text == "é \ufffd\ufffd x"


async def test_no_secret_reaches_the_file(tmp_path: Path) -> None:
    """Secrets are removed even when they are written in two pieces."""
    async with yard(tmp_path) as yard_:
        yard_.desk.live.scrub(Scrubber(["swordfish-4711"]))
        await run(yard_, "printf 'pass swordfish'; sleep 0.1; echo '-4711!'; printf sword")
        assert (await yard_.files.read("t", 100)).text == "pass [scrubbed]!\nsword"


async def test_lost_output_fails_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the command runs to its end, and the outcome says that its output was lost."""

    def write(log: ShellLog, data: bytes) -> None:
        log.total_bytes += len(data)
        log.problem = "No space left on device"

    async with yard(tmp_path) as yard_:
        monkeypatch.setattr(ShellLog, "write", write)
        over = await run(yard_, f"echo x; touch {tmp_path}/done")
        assert over == ShellOutcome("output_capture_failed", 0, "No space left on device", 2, 0)
        assert (tmp_path / "done").exists()


async def test_a_shell_that_waits_for_input_is_stalled(tmp_path: Path) -> None:
    """Silence after a question is recorded once; a program that works in silence is not stalled."""
    async with yard(tmp_path) as yard_:
        async with yard_.run_worker(stall_s=0.2):
            await yard_.begin("printf 'Continue? [y/N] '; exec sleep 4103.5", "asks")
            await yard_.begin("echo working; exec sleep 4103.5", "works")
            await yard_.desk.until(lambda: yard_.task("asks")[1].stalled_at_ms is not None)
            await yard_.wait_for_output("working", "works")
            with trio.move_on_after(0.6):
                await trio.sleep_forever()
            assert yard_.task("works")[1].stalled_at_ms is None
            assert yard_.task("asks")[0].status == "in_progress"
        assert yard_.kinds().count("task_stalled") == 1
        assert wait_ended(running_with("4103.5"))


# The worker.


async def test_a_task_follows_its_shell(tmp_path: Path) -> None:
    """The process is recorded while it runs, and its exit once no process is left."""
    async with yard(tmp_path) as yard_, yard_.run_worker() as worker:
        await yard_.begin("echo one; until [ -e go ]; do sleep 0.02; done; exit 4")
        await yard_.wait_for_output("one")
        await yard_.desk.until(lambda: yard_.task()[1].pid is not None)
        task, shell = yard_.task()
        assert (task.status, worker.active, worker.max_stop_s) == ("in_progress", 1, MAX_STOP_SECONDS)
        assert os.getpgid(shell.pid or 0) == shell.pid
        (tmp_path / "work" / "go").touch()
        task, shell = await yard_.wait_ended()
        assert (task.status, shell.exit_code, shell.terminal_reason) == ("failed", 4, "exited")
        assert (shell.output_bytes, shell.output_kept_bytes) == (4, 4)
        assert yard_.kinds() == ["task_created", "task_started", "task_ended"]
        assert examine_whole(yard_.desk.state.read, deep=True).findings == []
    assert (worker.active, worker.max_stop_s) == (0, 0.0)


async def test_shells_run_side_by_side(tmp_path: Path) -> None:
    """A shell that ends does not affect the others."""
    async with yard(tmp_path) as yard_, yard_.run_worker():
        await yard_.begin("until [ -e b ]; do sleep 0.02; done; touch a", "first")
        await yard_.begin("touch b; until [ -e a ]; do sleep 0.02; done", "second")
        assert (await yard_.wait_ended("first"))[0].status == "completed"
        assert (await yard_.wait_ended("second"))[0].status == "completed"


async def test_a_client_stops_a_shell(tmp_path: Path) -> None:
    """The task is cancelled with the client's note; other shells keep running."""
    async with yard(tmp_path) as yard_, yard_.run_worker():
        await yard_.begin("echo ready; exec sleep 4200.5")
        await yard_.begin("exec sleep 4201.5", "other")
        await yard_.wait_for_output("ready")
        await yard_.stop(reason="enough")
        task, shell = await yard_.wait_ended()
        assert (task.status, task.note, shell.terminal_reason) == ("cancelled", "enough", "stopped")
        assert shell.exit_code == 143
        assert running_with("4200.5") == []
        await trio.to_thread.run_sync(wait_for_processes, "4201.5", 1)
        assert yard_.task("other")[0].status != "cancelled"


async def test_a_task_that_is_stopped_at_once_never_begins(tmp_path: Path) -> None:
    """A shell that is created and stopped before the worker looks is cancelled."""
    async with yard(tmp_path) as yard_:
        async with yard_.run_worker():
            await yard_.begin("touch begun", is_stopped=True)
            task, _ = await yard_.wait_ended()
        assert task.status == "cancelled"


async def test_a_task_whose_command_cannot_be_started_fails(tmp_path: Path) -> None:
    """The model is told the cause, too."""
    async with yard(tmp_path) as yard_, yard_.run_worker():
        (tmp_path / "work" / "file").write_text("")
        await yard_.begin("true", workdir="file")
        task, shell = await yard_.wait_ended()
        assert (task.status, shell.terminal_reason) == ("failed", "not_started")
        (note,) = [e.note for _, e in yard_.desk.journal("s") if isinstance(e, TaskEnded)]
        assert "could not be started" in note
        assert shell.problem in note


async def test_the_readable_paths_are_those_of_the_current_configuration(
    tmp_path: Path, bubblewrap: None
) -> None:
    """A sandboxed shell can read the paths that the current configuration names."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "book").write_text("words")
    async with yard(tmp_path) as yard_, yard_.run_worker():
        workspace = WorkspaceSection(readable=[str(tmp_path / "library")])
        yard_.desk.holder.replace(make_runtime(2, workspace=workspace))
        await yard_.begin(f"cat {tmp_path}/library/book", boxed=True)
        assert (await yard_.wait_ended())[0].status == "completed"


# Stopping.


async def test_a_stopping_daemon_ends_its_shells_in_order(tmp_path: Path) -> None:
    """Each shell may clean up, its task says how it ended, and no process of it runs."""
    async with yard(tmp_path) as yard_:
        async with yard_.run_worker():
            await yard_.begin("trap 'echo put away; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
            await yard_.begin("echo ready; exec sleep 4202.5", "other")
            await yard_.wait_for_output("ready")
            await yard_.wait_for_output("ready", "other")
        for task_id, code in (("t", 0), ("other", 143)):
            task, shell = yard_.task(task_id)
            assert (task.status, shell.terminal_reason) == ("failed", "daemon_stopped")
            assert shell.exit_code == code
        assert "put away\n" in (await yard_.files.read("t", 100)).text
        assert running_with("4202.5") == []


async def test_a_stopping_daemon_ends_a_shell_that_has_just_begun(tmp_path: Path) -> None:
    """The task ends and no process runs, however far the shell's start had come."""
    async with yard(tmp_path) as yard_:
        async with yard_.run_worker():
            await yard_.begin("exec sleep 4205.5")
        task, shell = yard_.task()
        assert (task.status, shell.terminal_reason) == ("failed", "daemon_stopped")
        assert running_with("4205.5") == []


# After a crash.


async def test_orphans_are_ended_before_the_worker_has_started(tmp_path: Path, bubblewrap: None) -> None:
    """Orphan processes are killed by their mark, their files stay, and a pending shell does not begin."""
    async with yard(tmp_path) as yard_:
        await yard_.begin("never run", "pending")
        await yard_.begin("ran")
        await yard_.desk.state.update(lambda tx: record_started(tx, "t", 1, 2))
        log = yard_.files.log("t")
        log.begin()
        log.write(b"so far\n")
        log.close()
        mark = f"{home_id(yard_.home)}.t"
        orphan = await trio.lowlevel.open_process(["sleep", "4203.5"], env={"KHEISH_CALL": mark})
        async with yard_.run_worker():
            task, shell = yard_.task()
            assert (task.status, shell.terminal_reason) == ("failed", "daemon_restarted")
            assert (shell.output_bytes, shell.exit_code) == (7, None)
            pending, unbegun = yard_.task("pending")
            assert (pending.status, unbegun.problem) == ("failed", "it had hardly begun, if at all")
            assert await orphan.wait() == -9
        assert (await yard_.files.read("t", 100)).text == "so far\n"
        assert yard_.kinds()[-2:] == ["task_ended", "task_ended"]


DAEMON = """
import sys, trio
from pathlib import Path
from tests.support.shells import yard

async def main():
    async with yard(Path(sys.argv[1])) as yard_, yard_.run_worker():
        await yard_.begin("echo begun; exec sleep 4204.5")
        await yard_.wait_for_output("begun")
        print("ready", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_killed_daemon_leaves_no_process_running(tmp_path: Path) -> None:
    """Its shells end with it; the next daemon ends their tasks, and their output can still be read."""
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
    async with yard(tmp_path) as yard_, yard_.run_worker():
        task, shell = yard_.task()
        assert running_with("4204.5") == []
        assert (task.status, shell.terminal_reason, shell.output_bytes) == ("failed", "daemon_restarted", 6)
        assert (await yard_.files.read("t", 100)).text == "begun\n"


# Failures.


async def test_a_commit_is_retried_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a shell is committed once there is room."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    attempts = []

    def record(tx: Any, task_id: str, outcome: ShellOutcome) -> None:
        attempts.append(outcome)
        if len(attempts) < 3:
            raise StorageFull
        real(tx, task_id, outcome)

    real: Callable[..., None] = record_ended
    async with yard(tmp_path) as yard_, yard_.run_worker():
        monkeypatch.setattr(module, "record_ended", record)
        await yard_.begin("true")
        assert (await yard_.wait_ended())[0].status == "completed"
        assert len(attempts) == 3


async def test_a_fault_fails_one_shell_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error fails its own task and is logged; other shells keep running."""
    async with yard(tmp_path) as yard_, yard_.run_worker():
        real = yard_.starter.running

        def running(task_id: str, *rest: Any) -> Any:
            if task_id == "bad":
                raise RuntimeError("a fault")
            return real(task_id, *rest)

        monkeypatch.setattr(yard_.starter, "running", running)
        await yard_.begin("true", "bad")
        await yard_.begin("true", "good")
        task, shell = await yard_.wait_ended("bad")
        assert (task.status, shell.terminal_reason) == ("failed", "exit_unknown")
        assert shell.problem == module.FAILED
        assert (await yard_.wait_ended("good"))[0].status == "completed"
    assert "a fault" in caplog.text


async def test_a_shell_whose_end_cannot_be_committed_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker abandons the shell, and the next daemon ends its task."""
    async with yard(tmp_path) as yard_:
        with monkeypatch.context() as patch:
            async with yard_.run_worker() as worker:

                def broken(*args: Any, **more: Any) -> None:
                    raise RuntimeError("no such luck")

                patch.setattr(module, "record_ended", broken)
                await yard_.begin("echo x >> count")
                await yard_.begin("true", "other")
                with trio.fail_after(20):
                    while worker.active or "no such luck" not in caplog.text:
                        await trio.lowlevel.checkpoint()
        async with yard_.run_worker():
            assert yard_.task()[1].terminal_reason == "daemon_restarted"
        assert (tmp_path / "work" / "count").read_text() == "x\n"


async def test_files_of_deleted_tasks_are_removed(tmp_path: Path) -> None:
    """When another shell begins, files without a task are deleted and those of other tasks stay."""
    async with yard(tmp_path) as yard_, yard_.run_worker():
        for task_id in ("one", "two"):
            await yard_.begin("echo x", task_id)
            await yard_.wait_ended(task_id)
        await yard_.append(TaskDeleted(task_id="one"))
        (tmp_path / "home" / "run" / "shells" / "stranger").write_text("of no task")
        await yard_.begin("echo x", "three")
        await yard_.wait_ended("three")
        assert await yard_.files.names() == ["three", "two"]
