"""Processes under their keepers, from the daemon's side; and orphans."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kheishd.hooks.os.shell import process as processes
from kheishd.hooks.os.shell.keeper import start_ticks_of
from kheishd.hooks.os.shell.process import (
    Command,
    CommandEnd,
    KeptCommand,
    NotStarted,
    find_orphans,
    home_id,
    kill_orphans,
    running,
)
from kheishd.hooks.os.shell.zygote import MARK_VARIABLE
from tests.support.commands import running_with


@pytest.fixture
def workdir(workspace: Path) -> Iterator[int]:
    """Provide the workspace, open."""
    descriptor = os.open(workspace, os.O_PATH)
    yield descriptor
    os.close(descriptor)


def command(
    workdir: int, script: str, *, boxed: bool = False, argv: tuple[str, ...] = ("/bin/sh", "-c")
) -> Command:
    """Return a command to run."""
    return Command((*argv, script), {"PATH": "/usr/bin:/bin"}, workdir, f"test-{os.getpid()}", boxed)


async def read(stream: trio.abc.ReceiveStream) -> bytes:
    """Read all of a stream."""
    return b"".join([bytes(piece) async for piece in stream])


async def test_output_errors_and_the_end(workdir: int) -> None:
    """Output, errors and exit code arrive separately."""
    async with running(command(workdir, "echo out; echo err >&2; exit 5")) as command_process:
        assert command_process.pid > 0
        assert command_process.start_ticks > 0
        assert command_process.stderr is not None
        assert (await read(command_process.stdout), await read(command_process.stderr)) == (
            b"out\n",
            b"err\n",
        )
        assert await command_process.wait() == CommandEnd(5)


async def test_output_and_errors_together(workdir: int) -> None:
    """Merged output has both in the order in which they were written."""
    async with running(command(workdir, "echo 1; echo 2 >&2; echo 3"), merged=True) as command_process:
        assert command_process.stderr is None
        assert await read(command_process.stdout) == b"1\n2\n3\n"


async def test_standard_input(workdir: int) -> None:
    """A command reads the standard input that it gets; without one, it is empty."""
    source, write = os.pipe()
    os.write(write, b"words\n")
    os.close(write)
    async with running(msgspec.structs.replace(command(workdir, "cat"), stdin=source)) as process:
        assert await read(process.stdout) == b"words\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(source)
    async with running(command(workdir, "cat")) as process:
        assert await read(process.stdout) == b""


async def test_it_begins_in_the_opened_directory(workdir: int, workspace: Path, tmp_path: Path) -> None:
    """A command begins in the opened directory, whatever has its name by now."""
    await trio.Path(workspace).rename(tmp_path / "moved")
    await trio.Path(workspace).symlink_to("/usr")
    async with running(command(workdir, "pwd -P")) as command_process:
        assert await read(command_process.stdout) == f"{tmp_path}/moved\n".encode()


@pytest.mark.parametrize(
    ("argv", "cause"),
    [(("/bin/nothing-like-it",), "No such file or directory"), (("/usr",), "Permission denied")],
)
async def test_what_cannot_be_executed(workdir: int, argv: tuple[str, ...], cause: str) -> None:
    """The reason for which a program cannot be executed is reported."""
    with pytest.raises(NotStarted, match=cause):
        async with running(command(workdir, "x", argv=argv)):
            raise AssertionError("it runs")


async def test_no_interpreter(workdir: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that cannot be started is reported the same way, and nothing stays open."""
    monkeypatch.setattr("sys.executable", "/bin/nothing-like-it")
    original = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotStarted, match="No such file or directory"):
        async with running(command(workdir, "true")):
            raise AssertionError("it runs")
    assert len(os.listdir("/proc/self/fd")) == original


async def test_a_keeper_that_fails(workdir: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the keeper's report, pid and exit code are unknown."""
    fails = "from kheishd.hooks.os.shell import zygote; zygote.keep = zygote.os.abort; zygote.main()"
    monkeypatch.setattr(processes, "ZYGOTE", f"import sys; sys.path.append(sys.argv[1]); {fails}")
    async with running(command(workdir, "true")) as command_process:
        assert command_process.pid == 0
        assert await command_process.wait() == CommandEnd(None)


async def test_a_zygote_that_fails(workdir: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no keeper reads the command, it has not been started, and nothing stays open."""
    monkeypatch.setattr(processes, "ZYGOTE", "raise SystemExit(1)")
    original = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotStarted, match="before it had read the command"):
        async with running(command(workdir, "true")):
            raise AssertionError("it runs")
    # A process closes its files a moment before it has ended.
    with trio.fail_after(10):
        while len(os.listdir("/proc/self/fd")) != original:
            await trio.lowlevel.checkpoint()


async def test_leaving_ends_it(workdir: int) -> None:
    """An error in the block reaches the caller once nothing of the command runs."""
    async with running(command(workdir, "true")):
        # The zygote's descriptors stay.
        pass
    original = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError):
        async with running(command(workdir, "setsid sleep 8001.1 & sleep 8001.1")):
            raise ZeroDivisionError
    assert running_with("8001.1") == []
    assert len(os.listdir("/proc/self/fd")) == original


async def test_stopping_twice(workdir: int) -> None:
    """Stopping a stopped command does nothing."""
    async with running(command(workdir, "sleep 8002.1")) as command_process:
        await command_process.stop()
        assert running_with("8002.1") == []
        await command_process.stop()
        assert await command_process.wait() == CommandEnd(128 + 15)


async def test_stopping_before_it_is_known_to_have_begun(
    workdir: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A command can be stopped before its start was reported."""
    with trio.CancelScope() as scope:
        scope.cancel()
        async with running(command(workdir, "sleep 1000")):
            raise AssertionError("it is known to run")
    assert scope.cancelled_caught
    assert caplog.records == []


async def test_waiting_can_be_given_up_and_taken_up(workdir: int) -> None:
    """A cancelled wait can be repeated."""
    async with running(
        command(workdir, "trap 'exit 5' USR1; echo ready; while :; do :; done")
    ) as command_process:
        assert await command_process.stdout.receive_some() == b"ready\n"
        with trio.move_on_after(0) as remaining:
            await command_process.wait()
        assert remaining.cancelled_caught
        os.kill(command_process.pid, signal.SIGUSR1)
        assert await command_process.wait() == CommandEnd(5)


async def test_a_keeper_that_is_killed(workdir: int) -> None:
    """If the keeper is killed, the exit code is unknown, and orphans are killed."""
    async with running(
        command(workdir, "setsid sleep 8003.1 & echo ready; kill -9 $PPID; sleep 8003.1")
    ) as command_process:
        assert await command_process.wait() == CommandEnd(None)
    assert running_with("8003.1") == []


async def test_orphans_without_a_mark(workdir: int) -> None:
    """A command that kills its keeper leaves no process, whatever its environment and its session are."""
    hidden = "env -i setsid sh -c 'sleep 8003.3 & setsid sleep 8003.3 & sleep 8003.3' &"
    script = (
        f"{hidden} sleep 8003.3 & until [ $(pgrep -fc '^sleep 8003.3') -ge 4 ]; do :; done; kill -9 $PPID"
    )
    other = Command(("/bin/sleep", "8003.5"), {}, workdir, f"other-{os.getpid()}")
    async with running(other) as spared:
        async with running(command(workdir, script)) as command_process:
            assert await command_process.wait() == CommandEnd(None)
        assert running_with("8003.3") == []
        # Other commands are left alone, and the zygote serves on.
        assert start_ticks_of(spared.pid) == spared.start_ticks
        async with running(command(workdir, "exit 4")) as command_process:
            assert await command_process.wait() == CommandEnd(4)


@pytest.mark.usefixtures("bubblewrap")
async def test_a_sandbox_that_cannot_be_set_up(workdir: int) -> None:
    """A failure of the sandbox differs from a failure of the command."""
    argv = ("/usr/bin/bwrap", "--ro-bind", "/", "/", "--bind", "/nothing-like-it", "/mnt", "/bin/sh", "-c")
    async with running(command(workdir, "exit 1", boxed=True, argv=argv)) as command_process:
        assert await command_process.wait() == CommandEnd(None, unboxed=True)


async def test_what_outlives_even_a_kill(
    workdir: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for an unkillable process is limited, and the log reports it."""
    for name in ("GRACE_SECONDS", "MAX_KILL_SECONDS"):
        monkeypatch.setattr(processes, name, 0.05)

    async def in_vain(mark: str) -> bool:
        return False

    monkeypatch.setattr(processes, "kill_orphans", in_vain)
    ours, theirs = socket.socketpair()
    async with running(command(workdir, "read x")) as command_process:
        deaf = KeptCommand(
            trio.SocketStream(trio.socket.from_stdlib_socket(ours)),
            command_process.stdout,
            command_process.stderr,
            "test",
        )
        deaf._gone = False
        with trio.fail_after(5):
            await deaf.stop()
            await deaf.aclose()
    theirs.close()
    assert "could not be killed" in caplog.text


async def test_how_long_it_may_take_to_end(workdir: int) -> None:
    """A command may clean up within the grace time; after it, it is killed."""
    script = "trap 'sleep 0.7; echo put away; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    for grace_s, message, code in ((20.0, b"put away\n", 4), (0.05, b"", 137)):
        async with running(command(workdir, script)) as command_process:
            assert await command_process.stdout.receive_some() == b"ready\n"
            await command_process.stop(grace_s)
            assert await read(command_process.stdout) == message
            assert await command_process.wait() == CommandEnd(code)


# Orphans.


async def marked(mark: str, command: str) -> trio.Process:
    """Provide a running shell command whose processes carry a mark."""
    environ = {MARK_VARIABLE: mark, "PATH": "/usr/bin:/bin"}
    argv = ["/bin/sh", "-c", f"echo ready; {command}"]
    process = await trio.lowlevel.open_process(
        argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.receive_some() == b"ready\n"
    return process


def test_marks_of_homes_differ(tmp_path: Path) -> None:
    """The mark of a home is the same by every path to it, and differs between homes."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    assert home_id(tmp_path / "home") == home_id(tmp_path / "link") != home_id(tmp_path)
    assert home_id(tmp_path).isalnum()


async def test_found_by_the_whole_mark() -> None:
    """A mark is compared as a whole."""
    first, second = await marked("test-1", "read x"), await marked("test-11", "read x")
    assert find_orphans("test-1") == [(first.pid, start_ticks_of(first.pid))]
    assert find_orphans("test-") == []
    assert await kill_orphans("test-1")
    assert await first.wait() == -signal.SIGKILL
    assert second.returncode is None
    assert await kill_orphans("test-11")
    assert await second.wait() == -signal.SIGKILL


async def test_those_that_are_just_ending_may() -> None:
    """Within the patience nothing is killed."""
    process = await marked("test-2", "read x; exit 5")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: kill_orphans("test-2", patience_s=30))
        await wait_all_tasks_blocked()
        assert process.stdin is not None
        await process.stdin.aclose()
        assert await process.wait() == 5


async def test_a_process_between_two_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is replacing its program has no mark for a moment, so one scan is not enough."""
    process = await marked("test-4", "read x")
    result = iter([[], find_orphans("test-4")])
    monkeypatch.setattr(processes, "find_orphans", lambda mark: next(result, []))
    assert await kill_orphans("test-4")
    assert await process.wait() == -signal.SIGKILL


async def test_nothing_left() -> None:
    """Without orphans there is nothing to wait for."""
    with trio.fail_after(5):
        assert await kill_orphans("test-none", patience_s=60)


async def test_what_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for an unkillable orphan is limited."""
    process = await marked("test-3", "read x")
    monkeypatch.setattr(processes, "MAX_ORPHAN_SECONDS", 0.1)
    monkeypatch.setattr(processes, "send_signal", lambda process, number: None)
    assert not await kill_orphans("test-3")
    process.kill()
    await process.wait()
