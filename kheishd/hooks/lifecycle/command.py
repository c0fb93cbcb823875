"""Run the command of a hook under a keeper, with a cleaned environment and its input as JSON.

The keeper ends everything that the command has started, also a process in a session of its own: when the
command ends, when its time is over, and when the daemon dies (see ``hooks/os/shell/keeper.py``).
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from kheishd.hooks.os.shell.command import DEFAULT_PATH, PASSED_PREFIX, PASSED_VARIABLES
from kheishd.hooks.os.shell.process import Command, NotStarted, fork_spare_keeper, running
from protocol.limits.hook import MAX_HOOK_OUTPUT_BYTES, MAX_HOOK_REASON_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK_BYTES: Final = 16 * 1024

DRAIN_SECONDS: Final = 0.5
"""How long the output of a command that has ended is read: nothing of the command holds it open then."""


class CommandFailed(Exception):
    """A command that could not be run, or wrote too much."""


class CommandResult(Value, frozen=True):
    """The result of a command that has ended; its exit code is 128 + n if signal n ended it."""

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
    argv: tuple[str, ...], directory: str, environment: Mapping[str, str], content: bytes, mark: str
) -> CommandResult:
    """Run a command with an input; when this ends, also by cancellation, nothing of the command runs.

    Args:   ``mark`` identifies its processes, should its keeper be killed.
    Errors: CommandFailed.
    """
    program = argv[0]
    path = os.path.join(directory, program) if "/" in program else None
    path = path or shutil.which(program, path=environment.get("PATH"))
    stdout, stderr = bytearray(), bytearray()
    try:
        if path is None:
            raise NotStarted("No such file or directory")
        workdir = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            read, write = os.pipe2(os.O_CLOEXEC)
            stdin = trio.lowlevel.FdStream(write)
            command = Command((path, *argv[1:]), environment, workdir, mark, stdin=read)
            async with stdin, running(command) as kept:
                # Hooks run one after another: the next one need not wait for its keeper.
                fork_spare_keeper()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_write, stdin, content)
                        nursery.start_soon(_read, kept.stdout, stdout, nursery.cancel_scope)
                        nursery.start_soon(_read, kept.stderr, stderr, nursery.cancel_scope)
                        end = await kept.wait()
                        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS
                finally:
                    if not kept.is_gone:
                        await kept.stop(grace_s=0.0)
        finally:
            os.close(workdir)
    except (NotStarted, OSError, ValueError) as error:
        raise CommandFailed(f"{program} cannot be run: {getattr(error, 'strerror', None) or error}") from None
    if max(len(stdout), len(stderr)) > MAX_HOOK_OUTPUT_BYTES:
        raise CommandFailed(f"it wrote more than {MAX_HOOK_OUTPUT_BYTES} bytes, and was killed")
    if end.code is None:
        raise CommandFailed("the process that supervised it was killed, so its end is unknown")
    return CommandResult(end.code, bytes(stdout), bytes(stderr))


async def _write(stdin: trio.abc.SendStream, content: bytes) -> None:
    """Write the input; a command need not read it."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stdin.send_all(content)
    await stdin.aclose()


async def _read(stream: trio.abc.ReceiveStream | None, buffer: bytearray, flooded: trio.CancelScope) -> None:
    """Read an output to its end, or until it is too long."""
    assert stream is not None, "both outputs are read"
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while chunk := await stream.receive_some(CHUNK_BYTES):
            buffer += chunk
            if len(buffer) > MAX_HOOK_OUTPUT_BYTES:
                flooded.cancel()
                return


def shorten(text: bytes) -> str:
    """Return the text of an output, short enough for a reason."""
    return text[: 4 * MAX_HOOK_REASON_BYTES].decode(errors="replace").strip()
