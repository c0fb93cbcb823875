"""One shell in the background, with real processes: what it comes to, whatever happens to it."""

import signal
from pathlib import Path

import pytest
import trio

from kheishd.core.text.scrub import Scrubber
from kheishd.hooks.os.shell.log import ShellLog
from kheishd.objects.work.shell import ShellOutcome
from kheishd.workers.background import Background
from protocol.limits.shell import MAX_SHELL_OUTPUT_BYTES
from protocol.limits.units import MIB
from tests.support.commands import come_with, ended, running_with
from tests.support.shells import Yard, yard


async def saved(fn: object) -> None:
    """Nobody writes anything down."""


def shell(yard: Yard, *, stall_s: float = 45.0) -> Background:
    """The shell of the task ``t``."""
    return Background(yard.task()[0], yard.desk.live, yard.files, saved, stall_s=stall_s)


async def performed(yard: Yard, command: str) -> ShellOutcome:
    """What a command comes to that nobody stops."""
    await yard.begin(command)
    return await shell(yard).perform(yard.starter, ())


async def test_how_it_ended_and_what_it_wrote(tmp_path: Path) -> None:
    """Output and errors in their order; all of it is there once it is over."""
    async with yard(tmp_path) as yard_:
        over = await performed(yard_, "echo out; echo err >&2; echo end; exit 3")
        assert over == ShellOutcome("exited", 3, "", 12, 12)
        assert (await yard_.files.read("t", 100)).text == "out\nerr\nend\n"


async def test_nothing_can_be_typed(tmp_path: Path) -> None:
    """What reads is told at once that there is nothing."""
    async with yard(tmp_path) as yard_:
        assert (await performed(yard_, "read x || echo nothing")).exit_code == 0
        assert (await yard_.files.read("t", 100)).text == "nothing\n"


async def test_what_it_started_goes_with_it(tmp_path: Path) -> None:
    """Also what left its group and gave its output away."""
    async with yard(tmp_path) as yard_:
        over = await performed(yard_, "setsid sleep 4100.5 & echo begun")
        assert over.why == "exited"
        assert running_with("4100.5") == []


async def test_it_is_stopped(tmp_path: Path) -> None:
    """Asked first, so that it can put something away; then nothing of it runs, and its output is kept."""
    async with yard(tmp_path) as yard_:
        await yard_.begin("trap 'echo put away; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
        background = shell(yard_)

        async def stop() -> None:
            await yard_.wrote("ready")
            background.stop("stopped")
            background.stop("daemon_stopped")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            over = await background.perform(yard_.starter, ())
        assert (over.why, over.exit_code) == ("stopped", 0)
        assert "put away\n" in (await yard_.files.read("t", 100)).text


async def test_what_does_not_hear_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it."""
    monkeypatch.setattr("kheishd.workers.background.GRACE_SECONDS", 0.1)
    async with yard(tmp_path) as yard_:
        await yard_.begin(
            "trap '' TERM; (trap '' TERM; exec sleep 4101.5) & echo ready; sleep 4101.5; sleep 1"
        )
        background = shell(yard_)

        async def stop() -> None:
            await yard_.wrote("ready")
            await trio.to_thread.run_sync(come_with, "4101.5", 2)
            background.stop("daemon_stopped")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            over = await background.perform(yard_.starter, ())
        assert (over.why, over.exit_code) == ("daemon_stopped", 128 + signal.SIGKILL)
        assert running_with("4101.5") == []


async def test_it_is_stopped_before_it_begins(tmp_path: Path) -> None:
    """Then it never does."""
    async with yard(tmp_path) as yard_:
        await yard_.begin(f"touch {tmp_path}/begun")
        background = shell(yard_)
        background.stop("stopped")
        over = await background.perform(yard_.starter, ())
        assert over == ShellOutcome("stopped", None, "it had not begun")
        assert not (tmp_path / "begun").exists()


async def test_it_cannot_be_started(tmp_path: Path) -> None:
    """It is said why."""
    async with yard(tmp_path) as yard_:
        await yard_.begin("true", workdir="file")
        (tmp_path / "work" / "file").write_text("no directory")
        over = await shell(yard_).perform(yard_.starter, ())
        assert over.why == "not_started"
        assert "file" in over.problem


async def test_who_watches_over_it_is_killed(tmp_path: Path) -> None:
    """How it ended is not known then, and is not made up; nothing of it runs."""
    async with yard(tmp_path) as yard_:
        over = await performed(yard_, "kill -9 $PPID; sleep 4102.5")
        assert (over.why, over.exit_code) == ("exit_unknown", None)
        assert running_with("4102.5") == []


async def test_output_without_end(tmp_path: Path) -> None:
    """The newest of it is kept, and how much it was is known."""
    async with yard(tmp_path) as yard_:
        over = await performed(yard_, f"head -c {20 * MIB} /dev/zero | tr '\\0' x; echo; echo the end")
        assert over.output_bytes == 20 * MIB + 9
        assert over.output_kept_bytes <= MAX_SHELL_OUTPUT_BYTES
        assert (await yard_.files.read("t", 9)).text == "\nthe end\n"


async def test_who_writes_too_much_is_slowed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it does not take the disk for itself; nothing of what it writes is lost."""
    monkeypatch.setattr("kheishd.workers.background.BURST_SECONDS", 0.0)
    async with yard(tmp_path) as yard_:
        began = trio.current_time()
        over = await performed(yard_, f"head -c {4 * MIB} /dev/zero | tr '\\0' x")
        assert over.output_bytes == 4 * MIB
        assert trio.current_time() - began > 0.4


async def test_output_that_is_no_text(tmp_path: Path) -> None:
    """Becomes text, however it is cut into pieces."""
    async with yard(tmp_path) as yard_:
        await performed(yard_, r"printf '\303'; sleep 0.1; printf '\251 \377\376 x'")
        assert (await yard_.files.read("t", 100)).text == "é \ufffd\ufffd x"


async def test_no_secret_reaches_the_file(tmp_path: Path) -> None:
    """Not even one that is written in two pieces."""
    async with yard(tmp_path) as yard_:
        yard_.desk.live.scrub(Scrubber(["swordfish-4711"]))
        await performed(yard_, "printf 'pass swordfish'; sleep 0.1; echo '-4711!'; printf sword")
        assert (await yard_.files.read("t", 100)).text == "pass [scrubbed]!\nsword"


async def test_a_disk_that_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs to its end all the same; its task has failed, as its output is lost."""

    def full(log: ShellLog, data: bytes) -> None:
        log.total_bytes += len(data)
        log.problem = "No space left on device"

    async with yard(tmp_path) as yard_:
        monkeypatch.setattr(ShellLog, "write", full)
        over = await performed(yard_, f"echo x; touch {tmp_path}/done")
        assert over == ShellOutcome("output_capture_failed", 0, "No space left on device", 2, 0)
        assert (tmp_path / "done").exists()


async def test_a_question_that_nobody_can_answer(tmp_path: Path) -> None:
    """It is told once, after a while without output; a program that works in silence is let be."""
    async with yard(tmp_path) as yard_:
        async with yard_.worked(stall_s=0.2):
            await yard_.begin("printf 'Continue? [y/N] '; exec sleep 4103.5", "asks")
            await yard_.begin("echo working; exec sleep 4103.5", "works")
            await yard_.desk.until(lambda: yard_.task("asks")[1].stalled_at_ms is not None)
            await yard_.wrote("working", "works")
            with trio.move_on_after(0.6):
                await trio.sleep_forever()
            assert yard_.task("works")[1].stalled_at_ms is None
            assert yard_.task("asks")[0].status == "in_progress"
        assert yard_.kinds().count("task_stalled") == 1
        assert ended(running_with("4103.5"))
