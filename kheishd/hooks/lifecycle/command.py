"""Run the command of a hook: in a process group of its own, with a cleaned environment and its input as JSON.

If the daemon dies meanwhile, ``timeout`` of the system ends the group at the end of its time.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from kheishd.hooks.os.programs import find_program
from kheishd.hooks.os.shell.command import DEFAULT_PATH, PASSED_PREFIX, PASSED_VARIABLES
from protocol.limits.hook import MAX_HOOK_OUTPUT_BYTES, MAX_HOOK_REASON_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK_BYTES: Final = 16 * 1024

DRAIN_SECONDS: Final = 0.5
"""How long the output of a command that has ended is read: a process that left its group may hold it open."""


class CommandFailed(Exception):
    """A command that could not be run, or wrote too much."""


class CommandResult(Value, frozen=True):
    """The result of a command that has ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def make_environment(environ: Mapping[str, str], event: str) -> dict[str, str]:
    """Return the environment of a hook: of the daemon's, only the language, the time zone and the places."""
    passed = {
        name: value
        for name, value in environ.items()
        if name in PASSED_VARIABLES or name == "HOME" or name.startswith(PASSED_PREFIX)
    }
    return {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", **passed, "KHEISH_HOOK_EVENT": event}


async def run_command(
    argv: tuple[str, ...], directory: str, environment: Mapping[str, str], content: bytes, max_s: float
) -> CommandResult:
    """Run a command with an input; when this ends, also by cancellation, its whole group has been killed.

    Args:   ``max_s`` is the time after which it ends even if the daemon dies.
    Errors: CommandFailed.
    """
    timer = find_program("timeout")
    timed = (timer, "--signal=KILL", f"{max_s + 1:.3f}") if timer is not None else ()
    try:
        process = await trio.lowlevel.open_process(
            [*timed, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{argv[0]} cannot be run: {getattr(error, 'strerror', None) or error}") from None
    stdout, stderr = bytearray(), bytearray()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, process, content)
            nursery.start_soon(_read, process.stdout, stdout, MAX_HOOK_OUTPUT_BYTES, nursery.cancel_scope)
            nursery.start_soon(_read, process.stderr, stderr, MAX_HOOK_OUTPUT_BYTES, nursery.cancel_scope)
            await process.wait()
            _kill(process)
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS
    finally:
        _kill(process)
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()
    if max(len(stdout), len(stderr)) > MAX_HOOK_OUTPUT_BYTES:
        raise CommandFailed(f"it wrote more than {MAX_HOOK_OUTPUT_BYTES} bytes, and was killed")
    return CommandResult(process.returncode or 0, bytes(stdout), bytes(stderr))


async def _write(process: trio.Process, content: bytes) -> None:
    """Write the input; a command need not read it."""
    assert process.stdin is not None
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await process.stdin.send_all(content)
    await process.stdin.aclose()


async def _read(
    stream: trio.abc.ReceiveStream | None, buffer: bytearray, max_bytes: int, flooded: trio.CancelScope
) -> None:
    """Read an output to its end, or until it is too long."""
    assert stream is not None
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while chunk := await stream.receive_some(CHUNK_BYTES):
            buffer += chunk
            if len(buffer) > max_bytes:
                flooded.cancel()
                return


def _kill(process: trio.Process) -> None:
    """Kill a command with everything of its group; the group may outlive its first process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def shorten(text: bytes) -> str:
    """Return the text of an output, short enough for a reason."""
    return text[: 4 * MAX_HOOK_REASON_BYTES].decode(errors="replace").strip()
