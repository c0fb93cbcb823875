"""Commands of hooks, with real processes."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from kheishd.hooks.lifecycle.command import (
    CommandFailed,
    CommandResult,
    make_environment,
    run_command,
    shorten,
)
from kheishd.hooks.os.shell.zygote import MARK_VARIABLE
from protocol.limits.hook import MAX_HOOK_OUTPUT_BYTES

# Tests that run at the same time must not take each other's processes for their own.
MARK = f"test.{os.getpid()}"
ENVIRONMENT = make_environment({"PATH": os.environ["PATH"], "HOME": "/h", "SECRET": "x"}, "stop")


async def run(line: str, content: bytes = b"{}", directory: str = "/") -> CommandResult:
    """Run a line of the shell."""
    return await run_command(("/bin/sh", "-c", line), directory, ENVIRONMENT, content, MARK)


async def await_end(pid: int) -> None:
    """Wait until a process that is no child has ended."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        await trio.lowlevel.wait_readable(descriptor)
        os.close(descriptor)


async def test_input_output_and_exit_code(tmp_path: Path) -> None:
    """A command reads its input, and works in its directory."""
    result = await run("cat; pwd; echo no >&2; exit 2", b'{"a": 1}', str(tmp_path))
    assert result == CommandResult(2, f'{{"a": 1}}{tmp_path}\n'.encode(), b"no\n")


async def test_the_environment_is_clean() -> None:
    """Nothing passes but the language, the places and the event."""
    result = await run("env")
    names = {line.partition(b"=")[0].decode() for line in result.stdout.splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "LANG", "HOME", "KHEISH_HOOK_EVENT", MARK_VARIABLE}


async def test_a_command_need_not_read_its_input() -> None:
    """A large input that nobody reads does not block."""
    assert (await run("exit 0", b"x" * 1_000_000)).exit_code == 0


async def test_programs_are_found(tmp_path: Path) -> None:
    """A path begins at the directory of the hook, a name is looked up in the PATH."""
    (tmp_path / "guard").write_text("#!/bin/sh\necho guarded $1\n")
    (tmp_path / "guard").chmod(0o700)
    for argv in (("./guard", "it"), (f"{tmp_path}/guard", "it"), ("sh", "./guard", "it")):
        result = await run_command(argv, str(tmp_path), ENVIRONMENT, b"", MARK)
        assert result.stdout == b"guarded it\n"


@pytest.mark.parametrize(
    ("argv", "directory", "problem"),
    [
        (("/no/such",), "/", "/no/such cannot be run: No such file"),
        (("no-such-program",), "/", "no-such-program cannot be run: No such file"),
        (("/etc/passwd",), "/", "/etc/passwd cannot be run: Permission denied"),
        (("true",), "/no/such/directory", "true cannot be run: No such file"),
    ],
)
async def test_missing_programs(argv: tuple[str, ...], directory: str, problem: str) -> None:
    """A program or a directory that is missing, or not to be executed, is named."""
    with pytest.raises(CommandFailed, match=problem):
        await run_command(argv, directory, ENVIRONMENT, b"", MARK)


async def test_a_flood_is_ended() -> None:
    """A command that writes without end is killed at the limit."""
    with pytest.raises(CommandFailed, match=f"more than {MAX_HOOK_OUTPUT_BYTES} bytes"):
        await run("yes")
    with pytest.raises(CommandFailed, match="more than"):
        await run("yes >&2")


async def test_children_end_with_their_command(tmp_path: Path) -> None:
    """A child in the background is killed when its command ends, and does not delay it."""
    result = await run("sleep 100 & echo $!")
    await await_end(int(result.stdout))


async def test_a_child_in_a_session_of_its_own_ends_with_its_command() -> None:
    """It is killed, too, although it has left the group, and does not delay the result."""
    result = await run("setsid sleep 100 & echo $!; exit 3")
    assert result.exit_code == 3
    await await_end(int(result.stdout))


async def test_a_command_that_leaves_its_session_ends_with_its_time(tmp_path: Path) -> None:
    """A command that becomes a daemon does not outlive its time."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "daemon.sh").write_text(f"echo $$ > {pipe}; sleep 100\n")
    child = f"import os; os.fork() and os.wait(); os.setsid(); os.execlp('sh', 'sh', '{tmp_path}/daemon.sh')"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, f'{sys.executable} -c "{child}"; sleep 100')
        pid = int(await trio.Path(pipe).read_text())
        nursery.cancel_scope.cancel()
    await await_end(pid)


async def test_cancellation_kills_the_group(tmp_path: Path) -> None:
    """When the time is over, the command and its children are gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, f"sleep 100 & echo $! $$ > {pipe}; wait")
        pids = await trio.Path(pipe).read_text()
        nursery.cancel_scope.cancel()
    for pid in pids.split():
        await await_end(int(pid))


async def test_a_command_whose_keeper_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is unknown, which is a failure, and nothing of it runs on."""
    with pytest.raises(CommandFailed, match="its end is unknown"):
        await run("kill -9 $PPID; sleep 100")


async def test_a_signal_is_an_exit_code() -> None:
    """As in the shell: 128 and its number."""
    assert (await run("kill -9 $$")).exit_code == 137


def test_texts_are_short() -> None:
    """A reason is valid text without blanks around it."""
    assert shorten(b" \xff no \n") == "\ufffd no"
