"""The ``bash`` tool: one shell command, confined to its workspace, bounded, and gone when it has answered.

What runs a command is elsewhere: ``sandbox`` says what it sees, ``processes`` starts and ends it, ``capture``
reads what it writes, ``ran`` is what is told of it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import Struct

from kheishd.hooks.capture import Capture
from kheishd.hooks.environment import cleaned
from kheishd.hooks.excerpt import clipped, ending
from kheishd.hooks.leftovers import hunt
from kheishd.hooks.processes import GRACE_SECONDS, KILL_SECONDS_MAX, Command, Ended, NotStarted, running
from kheishd.hooks.ran import Ran, outcome
from kheishd.hooks.sandbox import Sandbox
from kheishd.hooks.spool import Spool, tail
from kheishd.hooks.workdir import Workdir, open_workdir
from kheishd.kernel.hook import Finding, Outcome, Part, Stale, Tool, ToolError, ToolUse
from protocol.limits import COMMAND_BYTES_MAX, COMMAND_TAIL_BYTES_MAX, KIB
from protocol.objects.approval import Preview

TIMEOUT_SECONDS_MAX = 180.0

# What a command takes to be gone once its time is over, so that this is what tells, and not a cancellation.
STOPPING_SECONDS = GRACE_SECONDS + 3 * KILL_SECONDS_MAX

# Once all processes are gone their pipes end, unless one handed its own to somebody who lives on.
DRAIN_SECONDS_MAX = 1.0

# What a keeper takes to see that its daemon has died, and to end what it keeps.
KEEPER_SECONDS = 1.0

# What evidence holds of a command, and of what it said last: with where it ran, within 4 KiB.
EVIDENCE_ECHO_BYTES_MAX = 1 * KIB
EVIDENCE_TAIL_BYTES_MAX = 2 * KIB

DESCRIPTION = """\
Run a command in a shell (bash) and give its exit code, standard output and standard error.

- It begins in the workspace, or in workdir, a directory inside of it. Only files are kept between calls:
  no variables, no directory, no processes. What still runs when the shell ends is killed.
- Usually it can see the workspace, which it can write to, and the system, which it can only read. /tmp is its
  own and gone afterwards; ~ is the workspace. The network can be used.
- Standard input is empty, so nothing that asks can be answered: use options such as --yes.
- Of long output the middle is left out. A command that takes longer than timeout_s is stopped.
To read, search or change files, use the tools for files if there are any."""


class _Asked(Struct, frozen=True):
    """The arguments of a call."""

    command: str
    workdir: str = "."
    timeout_s: float = math.inf
    description: str = ""


class Bash(Part):
    """Shell commands of runs. ``readable`` is what sandboxed ones see besides the system."""

    name = "bash"

    def __init__(
        self,
        home: Path,
        *,
        readable: Sequence[str] = (),
        timeout_s_max: float = TIMEOUT_SECONDS_MAX,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.tools = (_tool(timeout_s_max),)
        self._timeout_s_max = timeout_s_max
        self._environ = environ
        self._calls = home / "run" / "calls"
        # Calls of another daemon's home on this machine have marks of their own.
        self._home_id = sha256(os.path.realpath(home).encode()).hexdigest()[:12]
        self._sandbox = Sandbox([str(home)], readable)

    def subject(self, use: ToolUse) -> str:
        """The command line."""
        return str(use.arguments.get("command", ""))

    async def preview(self, use: ToolUse) -> Preview:
        """The command line, and where it would run: the approval holds for both. Errors: ToolError."""
        asked = _asked(use.arguments)
        boxed, workdir = await self._prepare(use, asked)
        workdir.close()
        how = "in a sandbox" if boxed else "without a sandbox"
        # It comes first, so that no command can make it up.
        text = f"in {workdir.path}, {how}:\n{asked.command}"
        return Preview(kind="command", text=text, binding=_binding(workdir, boxed))

    async def evidence(self, use: ToolUse) -> dict[str, Any]:
        """What will be run, and where. Errors: ToolError."""
        asked = _asked(use.arguments)
        boxed, workdir = await self._prepare(use, asked)
        workdir.close()
        argv = [*_shell(), clipped(asked.command, EVIDENCE_ECHO_BYTES_MAX)]
        return {"argv": argv, "cwd": workdir.path, "sandboxed": boxed}

    async def dispatch(self, use: ToolUse) -> Outcome:
        """Run it. Whatever happens, nothing of it runs any more when this has ended.

        Errors: ToolError, Stale if an approval was for somewhere else.
        """
        asked = _asked(use.arguments)
        boxed, workdir = await self._prepare(use, asked)
        spool = Spool(self._calls / use.key)
        try:
            if use.binding not in (None, _binding(workdir, boxed)):
                raise Stale
            command = await trio.to_thread.run_sync(self._command, use, asked, workdir, boxed)
            await trio.to_thread.run_sync(spool.begin)
            capture = Capture(spool, use.say)
            timeout_s = min(asked.timeout_s, self._timeout_s_max)
            ended = await self._perform(use, command, capture, timeout_s)
            what = Ran(asked.command, workdir.path, boxed, timeout_s, ended)
            return await trio.to_thread.run_sync(outcome, what, capture, spool)
        finally:
            workdir.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(spool.remove)

    async def probe(self, use: ToolUse, evidence: Mapping[str, Any]) -> Finding:
        """What is known of a command that the daemon died in: that it is over, and what it said last."""
        over = await hunt(self._mark(use), patience_s=KEEPER_SECONDS)
        spool = Spool(self._calls / use.key)
        said = await trio.to_thread.run_sync(tail, spool.path, COMMAND_TAIL_BYTES_MAX)
        await trio.to_thread.run_sync(spool.remove)
        if "pid" in evidence:
            note = "the command was running when the daemon ended, and was stopped with it"
        elif said is not None:
            note = "the command was about to run, or had just begun, when the daemon ended"
        else:
            note = "the daemon ended just before the command began or just after it had ended"
        if not over:
            note += "; some of its processes cannot be stopped"
        found = {} if said is None else {"output_tail": ending(said, EVIDENCE_TAIL_BYTES_MAX)}
        return Finding("unknown", note, found)

    async def _prepare(self, use: ToolUse, asked: _Asked) -> tuple[bool, Workdir]:
        """Whether it is confined, and its open directory. Errors: ToolError."""
        boxed = await self._sandbox.chosen(use.place.sandbox)
        return boxed, await trio.to_thread.run_sync(open_workdir, use.place.workspace, asked.workdir)

    def _command(self, use: ToolUse, asked: _Asked, workdir: Workdir, boxed: bool) -> Command:
        argv = [*_shell(), asked.command]
        if boxed:
            argv = self._sandbox.argv(workdir, argv)
        environ = cleaned(self._environ, workdir.workspace)
        passed = (workdir.outer,) if boxed else ()
        return Command(tuple(argv), environ, workdir.inner, self._mark(use), boxed, passed)

    def _mark(self, use: ToolUse) -> str:
        return f"{self._home_id}.{use.key}"

    async def _perform(
        self, use: ToolUse, command: Command, capture: Capture, timeout_s: float
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
                    nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS_MAX
        except NotStarted as error:
            raise ToolError(f"the command could not be started: {error}") from None
        return ended


def _tool(timeout_s_max: float) -> Tool:
    properties = {
        "command": {"type": "string", "minLength": 1, "description": "The command line, or a short script."},
        "workdir": {
            "type": "string",
            "description": "A directory inside the workspace, which is where it begins if this is left out.",
        },
        "timeout_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": f"When it is stopped, in seconds: at most, and if left out, {timeout_s_max:g}.",
        },
        "description": {
            "type": "string",
            "description": "What it is for, in a few words, for whoever watches.",
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
        timeout_s=timeout_s_max + STOPPING_SECONDS,
    )


def _asked(arguments: Mapping[str, Any]) -> _Asked:
    """The arguments of a call. Errors: ToolError for a command that cannot be run or shown as it is."""
    asked = msgspec.convert(dict(arguments), _Asked)
    if "\0" in asked.command:
        raise ToolError("a command cannot hold a NUL character; write such data with printf")
    if len(asked.command.encode(errors="replace")) > COMMAND_BYTES_MAX:
        raise ToolError(
            f"a command may have {COMMAND_BYTES_MAX} bytes; write a longer script to a file and run that"
        )
    return asked


def _shell() -> tuple[str, ...]:
    """The shell, which reads none of the files that would greet a person: some are in the workspace."""
    if os.path.exists("/bin/bash"):
        return ("/bin/bash", "--noprofile", "--norc", "-c")
    return ("/bin/sh", "-c")


def _binding(workdir: Workdir, boxed: bool) -> str:
    return sha256(f"{'boxed' if boxed else 'bare'} {workdir.path}".encode(errors="replace")).hexdigest()
