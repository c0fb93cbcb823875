"""The ``bash`` tool: one shell command, confined to its workspace, bounded, and gone when it has answered.

What runs a command is elsewhere: ``sandbox`` says what it sees, ``processes`` starts and ends it, ``capture``
reads what it writes, ``ran`` is what is told of it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import Struct

from kheishd.hooks.capture import Capture
from kheishd.hooks.excerpt import clipped, ending
from kheishd.hooks.leftovers import KEEPER_SECONDS, home_id, hunt
from kheishd.hooks.prepared import prepared, shell
from kheishd.hooks.processes import GRACE_SECONDS, MAX_KILL_SECONDS, Command, Ended, NotStarted, running
from kheishd.hooks.ran import Ran, outcome
from kheishd.hooks.sandbox import Sandbox
from kheishd.hooks.shells.beginning import begun
from kheishd.hooks.spool import Spool, tail
from kheishd.hooks.workdir import Workdir, open_workdir
from kheishd.kernel.hook import Invocation, Outcome, ProbeResult, Stale, SubHook, Tool, ToolError
from protocol.limits.shell import MAX_COMMAND_BYTES, MAX_COMMAND_TAIL_BYTES
from protocol.limits.units import KIB
from protocol.objects.approval import Preview

MAX_TIMEOUT_SECONDS = 180.0

# What a command takes to be gone once its time is over, so that this is what tells, and not a cancellation.
STOPPING_SECONDS = GRACE_SECONDS + 3 * MAX_KILL_SECONDS

# Once all processes are gone their pipes end, unless one handed its own to somebody who lives on.
MAX_DRAIN_SECONDS = 1.0

# What evidence holds of a command, and of what it said last: with where it ran, within 4 KiB.
MAX_EVIDENCE_ECHO_BYTES = 1 * KIB
MAX_EVIDENCE_TAIL_BYTES = 2 * KIB

DESCRIPTION = """\
Run a command in a shell (bash) and give its exit code, standard output and standard error.

- It begins in the workspace, or in workdir, a directory inside of it. Only files are kept between calls:
  no variables, no directory, no processes. What still runs when the shell ends is killed.
- Usually it can see the workspace, which it can write to, and the system, which it can only read. /tmp is its
  own and gone afterwards; ~ is the workspace. The network can be used.
- Standard input is empty, so nothing that asks can be answered: use options such as --yes.
- Of long output the middle is left out. A command that takes longer than timeout_s is stopped.
- With run_in_background it is started and goes on beside you, without a time limit: servers, long builds,
  whatever you need not wait for. It becomes a task: task_output gives what it wrote, task_stop ends it.
To read, search or change files, use the tools for files if there are any."""


class _Asked(Struct, frozen=True):
    """The arguments of a call."""

    command: str
    workdir: str = "."
    timeout_s: float = math.inf
    description: str = ""
    run_in_background: bool = False


class Bash(SubHook):
    """Shell commands of runs. ``readable`` is what sandboxed ones see besides the system."""

    name = "bash"

    def __init__(
        self,
        home: Path,
        *,
        readable: Sequence[str] = (),
        max_timeout_s: float = MAX_TIMEOUT_SECONDS,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._tools = (_tool(max_timeout_s),)
        self._max_timeout_s = max_timeout_s
        self._environ = environ
        self._calls = home / "run" / "calls"
        self._home_id = home_id(home)
        self._sandbox = Sandbox([str(home)], readable)

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool."""
        return self._tools

    def subject(self, use: Invocation) -> str:
        """The command line."""
        return str(use.arguments.get("command", ""))

    async def preview(self, use: Invocation) -> Preview:
        """The command line, and where it would run: the approval holds for both. Errors: ToolError."""
        asked = _asked(use.arguments)
        boxed, workdir = await self._prepare(use, asked)
        workdir.close()
        how = "in a sandbox" if boxed else "without a sandbox"
        if asked.run_in_background:
            how += ", in the background until it ends"
        # It comes first, so that no command can make it up.
        text = f"in {workdir.path}, {how}:\n{asked.command}"
        return Preview(kind="command", text=text, binding=_binding(workdir, boxed))

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """What will be run, and where. Errors: ToolError."""
        asked = _asked(use.arguments)
        boxed, workdir = await self._prepare(use, asked)
        workdir.close()
        argv = [*shell(), clipped(asked.command, MAX_EVIDENCE_ECHO_BYTES)]
        return {"argv": argv, "cwd": workdir.path, "sandboxed": boxed}

    async def dispatch(self, use: Invocation) -> Outcome:
        """Run it. Whatever happens, nothing of it runs any more when this has ended.

        One for the background is not even begun by then: it is a task once this result is committed.

        Errors: ToolError, Stale if an approval was for somewhere else.
        """
        asked = _asked(use.arguments)
        boxed, workdir = await self._prepare(use, asked)
        try:
            if use.binding not in (None, _binding(workdir, boxed)):
                raise Stale
            if asked.run_in_background:
                return begun(use, asked.command, asked.description, workdir, boxed=boxed)
            return await self._run(use, asked, workdir, boxed=boxed)
        finally:
            workdir.close()

    async def _run(self, use: Invocation, asked: _Asked, workdir: Workdir, *, boxed: bool) -> Outcome:
        spool = Spool(self._calls / use.key)
        sandbox = self._sandbox if boxed else None
        ready = partial(prepared, asked.command, workdir, self._environ, self._mark(use), sandbox)
        try:
            command = await trio.to_thread.run_sync(ready)
            await trio.to_thread.run_sync(spool.begin)
            capture = Capture(spool, use.stream)
            timeout_s = min(asked.timeout_s, self._max_timeout_s)
            ended = await self._perform(use, command, capture, timeout_s)
            what = Ran(asked.command, workdir.path, boxed, timeout_s, ended)
            return await trio.to_thread.run_sync(outcome, what, capture, spool)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(spool.remove)

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """What is known of a command that the daemon died in: that it is over, and what it said last."""
        if use.arguments.get("run_in_background"):
            return ProbeResult("not_done", "a command for the background begins once its result is kept")
        over = await hunt(self._mark(use), patience_s=KEEPER_SECONDS)
        spool = Spool(self._calls / use.key)
        said = await trio.to_thread.run_sync(tail, spool.path, MAX_COMMAND_TAIL_BYTES)
        await trio.to_thread.run_sync(spool.remove)
        if "pid" in evidence:
            note = "the command was running when the daemon ended, and was stopped with it"
        elif said is not None:
            note = "the command was about to run, or had just begun, when the daemon ended"
        else:
            note = "the daemon ended just before the command began or just after it had ended"
        if not over:
            note += "; some of its processes cannot be stopped"
        found = {} if said is None else {"output_tail": ending(said, MAX_EVIDENCE_TAIL_BYTES)}
        return ProbeResult("unknown", note, found)

    async def _prepare(self, use: Invocation, asked: _Asked) -> tuple[bool, Workdir]:
        """Whether it is confined, and its open directory. Errors: ToolError."""
        boxed = await self._sandbox.chosen(use.context.sandbox)
        return boxed, await trio.to_thread.run_sync(open_workdir, use.context.workspace, asked.workdir)

    def _mark(self, use: Invocation) -> str:
        return f"{self._home_id}.{use.key}"

    async def _perform(
        self, use: Invocation, command: Command, capture: Capture, timeout_s: float
    ) -> Ended | None:
        """Run a command and take in what it writes: how it ended; None if it took too long."""
        ended = None
        try:
            async with running(command) as kept:
                assert kept.stderr is not None, "its errors come apart"
                if kept.pid:
                    await use.observe({"pid": kept.pid, "started": kept.started})
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(capture.pump, kept.stdout, capture.stdout)
                    nursery.start_soon(capture.pump, kept.stderr, capture.stderr)
                    with trio.move_on_after(timeout_s):
                        ended = await kept.wait()
                    if ended is None:
                        await kept.stop()
                    nursery.cancel_scope.deadline = trio.current_time() + MAX_DRAIN_SECONDS
        except NotStarted as error:
            raise ToolError(f"the command could not be started: {error}") from None
        return ended


def _tool(max_timeout_s: float) -> Tool:
    properties = {
        "command": {"type": "string", "minLength": 1, "description": "The command line, or a short script."},
        "workdir": {
            "type": "string",
            "description": "A directory inside the workspace, which is where it begins if this is left out.",
        },
        "timeout_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": f"When it is stopped, in seconds: at most, and if left out, {max_timeout_s:g}.",
        },
        "description": {
            "type": "string",
            "description": "What it is for, in a few words, for whoever watches.",
        },
        "run_in_background": {
            "type": "boolean",
            "description": "Start it and go on at once; timeout_s does not count then.",
        },
    }
    return Tool(
        name="bash",
        description=DESCRIPTION,
        schema={
            "type": "object",
            "properties": properties,
            "required": ["command"],
            "additionalProperties": False,
        },
        kind="execute",
        default="ask",
        droppable=True,
        timeout_s=max_timeout_s + STOPPING_SECONDS,
    )


def _asked(arguments: Mapping[str, Any]) -> _Asked:
    """The arguments of a call. Errors: ToolError for a command that cannot be run or shown as it is."""
    asked = msgspec.convert(dict(arguments), _Asked)
    if "\0" in asked.command:
        raise ToolError("a command cannot hold a NUL character; write such data with printf")
    if len(asked.command.encode(errors="replace")) > MAX_COMMAND_BYTES:
        raise ToolError(
            f"a command may have {MAX_COMMAND_BYTES} bytes; write a longer script to a file and run that"
        )
    return asked


def _binding(workdir: Workdir, boxed: bool) -> str:
    return sha256(f"{'boxed' if boxed else 'bare'} {workdir.path}".encode(errors="replace")).hexdigest()
