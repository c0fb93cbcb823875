"""What is told of a command that ran: its exit code and as much of its output as a result may hold."""

from dataclasses import dataclass

import msgspec
from msgspec import Struct

from kheishd.hooks.capture import Capture
from kheishd.hooks.excerpt import clipped
from kheishd.hooks.processes import Ended
from kheishd.hooks.spool import Spool
from kheishd.kernel.hook import Outcome, ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.units import KIB

# What a result repeats of the command, and of where it ran.
MAX_ECHO_BYTES = 1 * KIB

MAX_PROBLEM_BYTES = 2 * KIB


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ran, and how it ended; None where it took longer than ``timeout_s``."""

    command: str
    workdir: str
    boxed: bool
    timeout_s: float
    ended: Ended | None


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model reads. ``exit_code`` is null where the command was stopped."""

    command: str
    workdir: str
    exit_code: int | None
    success: bool
    timed_out: bool
    sandboxed: bool
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    note: str | None = None


def outcome(ran: Ran, capture: Capture, spool: Spool) -> Outcome:
    """The outcome of a command. Only a timeout is an error: a command may say no by its exit code.

    Errors: ToolError if it never ran, or nobody knows how it ended.
    """
    code = _code(ran, capture)
    empty = Result(
        command=clipped(ran.command, MAX_ECHO_BYTES),
        workdir=clipped(ran.workdir, MAX_ECHO_BYTES),
        exit_code=code,
        success=code == 0,
        timed_out=ran.ended is None,
        sandboxed=ran.boxed,
        stdout="",
        stderr="",
        stdout_truncated=False,
        stderr_truncated=False,
        note=_note(ran, spool),
    )
    room = MAX_TOOL_TEXT_BYTES - len(msgspec.json.encode(empty))
    (stdout, stdout_is_whole), (stderr, stderr_is_whole) = capture.shown(room)
    result = msgspec.structs.replace(
        empty,
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=not stdout_is_whole,
        stderr_truncated=not stderr_is_whole,
    )
    return Outcome(
        msgspec.json.encode(result).decode(),
        is_error=result.timed_out,
        full_output=None if stdout_is_whole and stderr_is_whole else spool.read() or None,
    )


def _code(ran: Ran, capture: Capture) -> int | None:
    if ran.ended is None or ran.ended.code is not None:
        return None if ran.ended is None else ran.ended.code
    if ran.ended.unboxed:
        why, _ = capture.stderr.text(MAX_PROBLEM_BYTES)
        raise ToolError(f"the command did not run, for its sandbox could not be set up: {why.strip()}")
    raise ToolError(
        "how the command ended is not known, for what watched over it was killed; "
        "nothing of it runs any more, but look at what it may have done"
    )


def _note(ran: Ran, spool: Spool) -> str | None:
    notes = []
    if ran.ended is None:
        notes.append(f"stopped after {ran.timeout_s:g} s; do less at once, or give a longer timeout_s")
    if spool.dropped:
        why = spool.problem or "it was more than is kept"
        notes.append(f"{spool.dropped} bytes of the output are lost: {why}")
    return "; ".join(notes) or None
