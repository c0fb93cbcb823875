"""Commands of hooks, with real processes."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from kheishd.hooks.lifecycle import command
from kheishd.hooks.lifecycle.command import (
    CommandFailed,
    CommandResult,
    make_environment,
    run_command,
    shorten,
)
from protocol.limits.hook import MAX_HOOK_OUTPUT_BYTES

ENVIRONMENT = make_environment({"PATH": os.environ["PATH"], "HOME": "/h", "SECRET": "x"}, "stop")


async def run(line: str, content: bytes = b"{}", directory: str = "/", max_s: float = 10.0) -> CommandResult:
    """Run a line of the shell."""
    return await run_command(("/bin/sh", "-c", line), directory, ENVIRONMENT, content, max_s)


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
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "LANG", "HOME", "KHEISH_HOOK_EVENT"}


async def test_a_command_need_not_read_its_input() -> None:
    """A large input that nobody reads does not block."""
    assert (await run("exit 0", b"x" * 1_000_000)).exit_code == 0


async def test_missing_programs() -> None:
    """Without ``timeout``, too, a program that is missing is a failure."""
    result = await run_command(("/no/such",), "/", ENVIRONMENT, b"", 5.0)
    assert (result.exit_code, b"No such file" in result.stderr) == (127, True)
    with pytest.raises(CommandFailed, match="cannot be run: No such file"):
        await run_command(("true",), "/no/such/directory", ENVIRONMENT, b"", 5.0)


async def test_missing_programs_without_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the system's."""
    monkeypatch.setattr(command, "find_program", lambda name: None)
    with pytest.raises(CommandFailed, match="/no/such cannot be run: No such file"):
        await run_command(("/no/such",), "/", ENVIRONMENT, b"", 5.0)
    assert (await run("exit 3")).exit_code == 3


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


async def test_a_child_that_left_the_group_does_not_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hold on the output is waited for a moment only."""
    monkeypatch.setattr(command, "DRAIN_SECONDS", 0.05)
    child = "import os; os.fork() or (os.setsid(), os.execlp('sleep', 's', '2'))"
    result = await run(f'{sys.executable} -c "{child}"; echo done')
    assert result.stdout == b"done\n"


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


async def test_a_command_ends_even_without_the_daemon() -> None:
    """Its timer is a process of its own."""
    result = await run("echo $PPID; cat /proc/$PPID/comm")
    assert b"timeout" in result.stdout


def test_texts_are_short() -> None:
    """A reason is valid text without blanks around it."""
    assert shorten(b" \xff no \n") == "\ufffd no"
