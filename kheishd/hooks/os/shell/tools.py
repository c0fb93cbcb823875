"""The ``bash`` tool: one shell command, confined to its workspace, bounded, and gone when it has returned.

The parts are elsewhere: ``command`` prepares it, ``sandbox`` confines it, ``process`` starts and ends it, and
``output`` collects its output.

A command for the background is not started by its call. Its result and its task are committed together, and
the worker of shells then sees the task. So a command never runs without a record, and if the daemon dies in
the call, there is neither a task nor a process.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

import msgspec
import trio
from msgspec import Meta, Struct

from kheishd.config.sections.tools import LimitsSection
from kheishd.core.permissions.claims import NETWORK, Claim
from kheishd.core.task import abbreviate
from kheishd.core.text.surrogates import join_surrogates
from kheishd.hooks.network.addresses import address_of
from kheishd.hooks.network.destination import Destination, parse_destination
from kheishd.hooks.network.gate import CLOSED, Gate
from kheishd.hooks.network.interfaces import is_foreign_and_public
from kheishd.hooks.network.proxy import serving
from kheishd.hooks.os.shell.changes import (
    SKIPPED,
    FilesBefore,
    GitPlace,
    find_changes_since,
    find_place,
    look_before,
)
from kheishd.hooks.os.shell.command import prepare_command, shell_argv
from kheishd.hooks.os.shell.limits import explain_excess, suspect_limit
from kheishd.hooks.os.shell.output import OutputCollector, Spool, read_tail, trim_start, truncate_middle
from kheishd.hooks.os.shell.process import (
    GRACE_SECONDS,
    KEEPER_SECONDS,
    Command,
    CommandEnd,
    NotStarted,
    fork_spare_keeper,
    home_id,
    kill_orphans,
    running,
)
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.os.shell.scan import PathRules, show_path
from kheishd.hooks.os.shell.shield import Shield
from kheishd.hooks.os.shell.workdir import Workdir, open_workdir
from kheishd.kernel.hook import (
    Arguments,
    CheckpointDraft,
    Invocation,
    NeedsApproval,
    Opinion,
    Outcome,
    ProbeResult,
    Stale,
    SubHook,
    SubjectReading,
    ToolError,
    tool,
)
from kheishd.kernel.master_key import list_key_paths
from kheishd.objects.agents.worktree import find_repository
from kheishd.objects.work.shell import require_room
from protocol import ids
from protocol.errors.task import TaskLimit
from protocol.events.task import TaskCreated
from protocol.limits.call import MAX_TOOL_OUTPUT_BYTES, MAX_TOOL_TEXT_BYTES
from protocol.limits.network import MAX_CALL_HOSTS, MAX_HOST_BYTES
from protocol.limits.shell import MAX_COMMAND_BYTES, MAX_COMMAND_TAIL_BYTES, MAX_KILL_SECONDS
from protocol.limits.units import KIB, MIB
from protocol.objects.approval import Preview
from protocol.objects.permission import CallFacts
from protocol.objects.task import ShellCommand
from protocol.text import truncate_json_start

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from kheishd.config.sections.workspace import NetworkMode
    from kheishd.hooks.os.shell.health import SandboxHealth
    from kheishd.hooks.os.shell.scan import Scan
    from kheishd.store.environment import Snapshot

MAX_TIMEOUT_SECONDS = 180.0

Confinement = Literal["none", "bubblewrap", "bubblewrap, network open"]
"""What keeps a command inside: nothing, a sandbox with a closed network, one with the machine's network."""

# The time for ending a command after its timeout, so that the tool reports the timeout, and is not cancelled.
STOPPING_SECONDS = GRACE_SECONDS + 3 * MAX_KILL_SECONDS

SAVE_SECONDS = 15.0

# The sessions that were told that the changes of their commands are not saved.
MAX_NOTED_SESSIONS = 1_000

# A command that ends within this time is journaled with its result: its process matters only while it runs.
QUICK_SECONDS = 0.02

# Once all processes are gone their pipes end, unless one passed its own to a process that lives on.
MAX_DRAIN_SECONDS = 1.0

# The command and the end of its output in the evidence: with the directory, within 4 KiB.
MAX_EVIDENCE_ECHO_BYTES = 1 * KIB
MAX_EVIDENCE_TAIL_BYTES = 2 * KIB

# The copy of the command, and of its directory, in a result.
MAX_ECHO_BYTES = 1 * KIB

MAX_PROBLEM_BYTES = 2 * KIB

# The closed or read-only paths that a note names.
MAX_NAMED_PATHS = 5

_LOOPBACK = re.compile(r"(?<![\w.-])(?:localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+")

DESCRIPTION = """\
Run a command in a shell (bash) and return its exit code, standard output and standard error.

- It starts in the workspace, or in workdir, a directory inside it. Only files persist between calls: no
  variables, no current directory, no processes. Processes that still run when the shell ends are killed.
- Usually it sees the workspace, which it can write to, and the system, which is read-only. /tmp is private
  and deleted afterwards; ~ is the workspace.
- {network}
- Standard input is empty, so no prompt can be answered: use options such as --yes.
- The middle of long output is left out. A command that takes longer than timeout_s is stopped (default and
  maximum: {max_timeout_s:g}).
- With run_in_background it runs beside you, without a time limit: for servers, long builds, and anything
  you need not wait for. It becomes a task: task_output returns its output, task_stop ends it.
To read, search or change files, use the tools for files if there are any."""

UNSANDBOXED_NOTE = (
    "commands ran in a sandbox here before, and this one would run without it: workspace.sandbox is off"
)

NETWORK_TEXTS: Mapping[NetworkMode, str] = {
    "open": "The network can be used.",
    "closed": """\
Usually its network is closed: it reaches only hosts that rules or a person allow, through the proxy that
  http_proxy and https_proxy name, and there is no DNS. List the hosts that it needs in network.""",
}

BACKGROUND_NOTE = (
    "It runs in the background. task_output returns its output, task_stop ends it. After its end, "
    "you are told before your next answer."
)


class BashArguments(Arguments, frozen=True):
    """Arguments of ``bash``."""

    command: Annotated[str, Meta(min_length=1, description="The command line, or a short script.")]
    workdir: Annotated[str, Meta(description="A directory inside the workspace.")] = "."
    timeout_s: Annotated[float, Meta(gt=0, description="Stop after this many seconds.")] | None = None
    description: Annotated[str, Meta(description="The purpose, in a few words, for people who watch.")] = ""
    run_in_background: Annotated[
        bool, Meta(description="Start it and return at once; timeout_s does not apply.")
    ] = False
    network: Annotated[
        list[Annotated[str, Meta(max_length=MAX_HOST_BYTES + 10)]],
        Meta(
            max_length=MAX_CALL_HOSTS,
            description="The hosts that it connects to, as HOST (port 443) or HOST:PORT.",
        ),
    ] = []


class BashResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result for the model. ``exit_code`` is null if the command was stopped.

    ``connected`` and ``refused`` count the connections by destination.
    """

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
    connected: dict[str, int] = {}
    refused: dict[str, int] = {}
    note: str | None = None


class Bash(SubHook):
    """Shell commands of runs. A sandboxed one can see ``readable`` besides the system.

    ``asks_unsandboxed``: a person approves each command without a sandbox if there was one before, whatever a
    rule, a grant or a mode says.
    """

    name = "bash"

    def __init__(
        self,
        home: Path,
        *,
        readable: Sequence[str] = (),
        max_timeout_s: float = MAX_TIMEOUT_SECONDS,
        environ: Mapping[str, str] = os.environ,
        health: SandboxHealth | None = None,
        asks_unsandboxed: bool = True,
        network: NetworkMode = "closed",
        own_ports: Collection[int] = (),
        limits: LimitsSection | None = None,
        protected: Sequence[str] = (),
    ) -> None:
        self.revise(
            self.bash,
            description=DESCRIPTION.format(max_timeout_s=max_timeout_s, network=NETWORK_TEXTS[network]),
            timeout_s=max_timeout_s + STOPPING_SECONDS,
        )
        self._unsaved_sessions: set[str] = set()
        self._max_timeout_s = max_timeout_s
        self._environ = environ
        self._calls = home / "run" / "calls"
        self._home_id = home_id(home)
        self._limits = limits or LimitsSection()
        self._protected = tuple(protected)
        self._health = health
        self._asks_unsandboxed = asks_unsandboxed
        self._own_ports = own_ports
        hidden = (str(home), *list_key_paths(environ))
        self._sandbox = Sandbox(hidden, readable, health=health, network=network)

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Require a person's approval of a command that would leave the sandbox of the commands before it."""
        if call.tool.name == self.bash.name and self._leaves_sandbox(call):
            return NeedsApproval(UNSANDBOXED_NOTE)
        return None

    def _leaves_sandbox(self, call: Invocation) -> bool:
        health = self._health
        return (
            call.context.sandbox == "off"
            and self._asks_unsandboxed
            and health is not None
            and health.has_worked
        )

    def command_subject(self, call: Invocation, arguments: BashArguments) -> str:
        """Return the command line."""
        return arguments.command

    def command_claims(self, call: Invocation, arguments: BashArguments) -> list[Claim]:
        """Return the destinations that the command asks for. Errors: ToolError."""
        return [Claim("network", destination.subject) for destination in _destinations(arguments)]

    def read_command(self, subject: str) -> SubjectReading:
        """Read a command, or a connection of one: by itself, no rule with a ``*`` opens a local address."""
        if subject.startswith(NETWORK) and self._sandbox.network == "closed":
            with suppress(ToolError):
                destination = parse_destination(subject.removeprefix(NETWORK))
                address = address_of(destination.host)
                if address is not None and not is_foreign_and_public(address):
                    return SubjectReading(
                        subject, problem=CLOSED.format(subject=destination.subject), is_openable=True
                    )
        return SubjectReading(subject)

    async def preview_command(self, call: Invocation, arguments: BashArguments) -> Preview:
        """Show the command and its directory: the approval is bound to both. Errors: ToolError."""
        _require_runnable(arguments.command)
        boxed, workdir = await self._prepare(call, arguments)
        workdir.close()
        confinement = describe_confinement(arguments, self._confinement(boxed=boxed))
        # The directory comes first, so that no command can forge it.
        text = f"in {workdir.path}, {confinement}:\n{arguments.command}"
        facts = CallFacts(
            workdir=workdir.path,
            background=arguments.run_in_background,
            sandbox=self._confinement(boxed=boxed),
        )
        return Preview(
            kind="command",
            text=text,
            binding=_binding(workdir, arguments, self._confinement(boxed=boxed)),
            facts=facts,
        )

    async def command_evidence(self, call: Invocation, arguments: BashArguments) -> dict[str, Any]:
        """Return the command and its directory. Errors: ToolError."""
        _require_runnable(arguments.command)
        boxed, workdir = await self._prepare(call, arguments)
        workdir.close()
        argv = [*shell_argv(), truncate_middle(arguments.command, MAX_EVIDENCE_ECHO_BYTES)]
        network = [str(destination) for destination in _destinations(arguments)]
        hosts = {"network": network} if network else {}
        return {"argv": argv, "cwd": workdir.path, "sandboxed": boxed, **hosts}

    async def probe_command(
        self, call: Invocation, arguments: BashArguments, evidence: Mapping[str, Any]
    ) -> ProbeResult:
        """Stop what still runs of a command during which the daemon died, and return its last output."""
        if arguments.run_in_background:
            return ProbeResult("not_done", "a background command starts only after its result is committed")
        gone = await kill_orphans(self._mark(call), patience_s=KEEPER_SECONDS)
        spool = Spool(self._calls / call.key)
        output = await trio.to_thread.run_sync(read_tail, spool.path, MAX_COMMAND_TAIL_BYTES)
        await trio.to_thread.run_sync(spool.remove)
        if "pid" in evidence:
            note = "the command was running when the daemon ended, and was stopped with it"
        elif output is not None:
            note = "the command was about to run, or had just begun, when the daemon ended"
        else:
            note = "the daemon ended just before the command began or just after it had ended"
        if not gone:
            note += "; some of its processes cannot be stopped"
        if output is None:
            return ProbeResult("unknown", note)
        tail = truncate_json_start(trim_start(output).decode(errors="replace"), MAX_EVIDENCE_TAIL_BYTES)
        return ProbeResult("unknown", note, {"output_tail": tail})

    @tool(
        "bash",
        description=DESCRIPTION,
        kind="execute",
        default="ask",
        droppable=True,
        subject=command_subject,
        claims=command_claims,
        preview=preview_command,
        evidence=command_evidence,
        probe=probe_command,
        read_subject=read_command,
    )
    async def bash(self, call: Invocation, arguments: BashArguments) -> Outcome:
        """Run a command. When this ends, nothing of it runs any more.

        Errors: ToolError, Stale if the approval was for another directory or confinement.
        """
        _require_runnable(arguments.command)
        boxed, workdir = await self._prepare(call, arguments)
        try:
            if call.binding not in (None, _binding(workdir, arguments, self._confinement(boxed=boxed))):
                raise Stale
            # A rule, a grant or a mode allowed it: perhaps before a reload switched the sandbox off.
            if call.binding is None and self._leaves_sandbox(call):
                raise Stale
            if arguments.run_in_background:
                return _create_task(call, arguments, workdir, self._confinement(boxed=boxed))
            return await self._run(call, arguments, workdir, boxed=boxed)
        finally:
            workdir.close()

    async def _run(
        self, call: Invocation, arguments: BashArguments, workdir: Workdir, *, boxed: bool
    ) -> Outcome:
        spool = Spool(self._calls / call.key)
        sandbox = self._sandbox if boxed else None
        try:
            closed = () if sandbox is None else tuple(call.closed_patterns())

            def prepare() -> tuple[Shield | None, Command, GitPlace | None]:
                rules = PathRules(self._protected, closed)
                shield = None if sandbox is None else Shield(workdir, rules, sandbox.hidden)
                scan = None if shield is None else shield.scan
                spool.begin()
                line, mark = arguments.command, self._mark(call)
                command = prepare_command(line, workdir, self._environ, mark, sandbox, self._limits, scan)
                return shield, command, find_place(workdir.workspace, workdir.repository)

            shield, command, place = await trio.to_thread.run_sync(prepare)
            before = await self._look_before(call, workdir.workspace, place)
            collector = OutputCollector(spool, call.stream)
            timeout_s = min(arguments.timeout_s or self._max_timeout_s, self._max_timeout_s)
            gate = Gate(call.judge_claim, self._own_ports)
            notes: list[str] = []
            try:
                end, evidence = await _perform(call, command, collector, gate, timeout_s)
            finally:
                # For the next command, which a model is about to think about.
                fork_spare_keeper()
                if shield is not None:
                    with trio.CancelScope(shield=True):
                        notes = await trio.to_thread.run_sync(shield.finish)
                if before is not None:
                    # Also of a command that was stopped; on a full disk, its run must not wait forever.
                    with trio.move_on_after(SAVE_SECONDS) as saving:
                        saving.shield = True
                        await self._save_changes(call, workdir.workspace, before)
            if end is not None and end.unboxed:
                self._sandbox.record_failure(collector.stderr.text(MAX_PROBLEM_BYTES)[0].strip())
            if shield is not None:
                # Many commands join both streams.
                streams = (collector.stderr, collector.stdout)
                texts = (stream.text(MAX_PROBLEM_BYTES)[0] for stream in streams)
                notes += explain_refusals("\n".join(texts), shield.scan)
            if gate.is_served:
                notes += explain_loopback(call, arguments, gate)
            notes = [join_surrogates(note) for note in notes]  # Names of files need not be UTF-8.
            result = result_of(
                arguments.command, workdir.path, boxed, timeout_s, end, collector, spool, self._limits, notes
            )
            result = add_connections(result, gate, no_proxy=command.port != 0 and not gate.is_served)
            outcome = await trio.to_thread.run_sync(outcome_of, result, collector, spool)
            return msgspec.structs.replace(outcome, evidence=evidence)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(spool.remove)
            raise

    async def _look_before(
        self, call: Invocation, workspace: str, place: GitPlace | None
    ) -> FilesBefore | None:
        """Return the files before a command, if git can tell its changes; else say why not, once."""
        if place is None:
            return None
        before = place.problem or await look_before(workspace, place)
        if isinstance(before, str):
            await self._note_unsaved(call, workspace, before)
            return None
        return before

    async def _save_changes(self, call: Invocation, workspace: str, before: FilesBefore) -> None:
        """Commit a checkpoint of the files that a command has changed."""
        draft = await find_changes_since(workspace, before)
        if isinstance(draft, CheckpointDraft):
            await call.save(draft)
        elif draft is not None:
            await self._note_unsaved(call, workspace, draft)

    async def _note_unsaved(self, call: Invocation, workspace: str, note: str) -> None:
        """Say in a checkpoint that the changes of commands are not saved, once for each session."""
        session_id = call.context.session.session_id
        if session_id not in self._unsaved_sessions and len(self._unsaved_sessions) < MAX_NOTED_SESSIONS:
            self._unsaved_sessions.add(session_id)
            await call.save(CheckpointDraft(workspace, (), note=SKIPPED + note))

    async def _prepare(self, call: Invocation, arguments: BashArguments) -> tuple[bool, Workdir]:
        """Return whether the command is confined, and its open directory. Errors: ToolError."""
        boxed = await self._sandbox.choose(call.context.sandbox)
        workspace = call.context.workspace
        repository = find_repository(call.context.state, call.context.session, workspace)
        return boxed, await trio.to_thread.run_sync(open_workdir, workspace, arguments.workdir, repository)

    def _confinement(self, *, boxed: bool) -> Confinement:
        if not boxed:
            return "none"
        return "bubblewrap" if self._sandbox.network == "closed" else "bubblewrap, network open"

    def _mark(self, call: Invocation) -> str:
        return f"{self._home_id}.{call.key}"


def _require_runnable(command: str) -> None:
    """Reject a command that cannot be run, or shown completely. Errors: ToolError."""
    if "\0" in command:
        raise ToolError("a command cannot contain a NUL character; write such data with printf")
    if len(command.encode(errors="replace")) > MAX_COMMAND_BYTES:
        raise ToolError(
            f"a command may have {MAX_COMMAND_BYTES} bytes; write a longer script to a file and run that"
        )


def _destinations(arguments: BashArguments) -> list[Destination]:
    """Return the destinations that a command asks for. Errors: ToolError."""
    return list(dict.fromkeys(map(parse_destination, arguments.network)))


def _describe_host(destination: Destination) -> str:
    address = address_of(destination.host)
    is_open = address is None or is_foreign_and_public(address)
    return str(destination) if is_open else f"{destination} (opened only if a rule names this address)"


def describe_confinement(arguments: BashArguments, confinement: Confinement) -> str:
    """Describe for a person what keeps a command inside, and where it can connect to. Errors: ToolError."""
    match confinement:
        case "none":
            text = "without a sandbox, thus with the machine's whole network"
        case "bubblewrap, network open":
            text = "in a sandbox with the machine's whole network"
        case "bubblewrap" if arguments.network:
            hosts = ", ".join(map(_describe_host, _destinations(arguments)))
            text = f"in a sandbox that may connect to {hosts}"
        case "bubblewrap":
            text = "in a sandbox, connecting only to hosts that rules allow"
        case _:
            assert_never(confinement)
    return f"{text}, in the background until it ends" if arguments.run_in_background else text


def _binding(workdir: Workdir, arguments: BashArguments, confinement: Confinement) -> str:
    hosts = " ".join(sorted(map(str, _destinations(arguments))))
    text = f"{confinement}; {hosts}; {workdir.path}"
    return sha256(text.encode(errors="replace")).hexdigest()


# In the foreground.


async def _perform(
    call: Invocation, command: Command, collector: OutputCollector, gate: Gate, timeout_s: float
) -> tuple[CommandEnd | None, dict[str, int] | None]:
    """Run a command with the connections that its gate admits, and collect its output.

    Return how it ended, None if it took too long, and the evidence that was not journaled, as it ended soon.

    Errors: ToolError if it could not be started, or not in time.
    """
    begun, end, evidence = False, None, None
    deadline = trio.current_time() + timeout_s
    try:
        with trio.move_on_at(deadline) as start:
            async with running(command) as process:
                begun, start.deadline = True, math.inf
                assert process.stderr is not None, "its errors are separate"
                if process.pid:
                    evidence = {"pid": process.pid, "started": process.start_ticks}
                async with serving(process.listening, gate), trio.open_nursery() as nursery:
                    nursery.start_soon(collector.pump, process.stdout, collector.stdout)
                    nursery.start_soon(collector.pump, process.stderr, collector.stderr)
                    with trio.move_on_at(min(deadline, trio.current_time() + QUICK_SECONDS)):
                        end = await process.wait()
                    if evidence is not None and (end is None or end.code is None):
                        await call.observe(evidence)
                        evidence = None
                    if end is None:
                        with trio.move_on_at(deadline):
                            end = await process.wait()
                    if end is None:
                        await process.stop()
                    nursery.cancel_scope.deadline = trio.current_time() + MAX_DRAIN_SECONDS
    except NotStarted as error:
        raise ToolError(f"the command could not be started: {error}") from None
    if not begun:
        raise ToolError(f"the command's start took longer than {timeout_s:g} s, so it was stopped")
    return end, evidence


def result_of(
    command: str,
    workdir: str,
    boxed: bool,
    timeout_s: float,
    end: CommandEnd | None,
    collector: OutputCollector,
    spool: Spool,
    limits: LimitsSection,
    remarks: Sequence[str] = (),
) -> BashResult:
    """Return the result, still without the output.

    Errors: ToolError if the command never ran, or its end is unknown.
    """
    notes = list(remarks)
    if end is None:
        notes.append(f"stopped after {timeout_s:g} s; do less at once, or give a longer timeout_s")
    elif end.unboxed:
        problem, _ = collector.stderr.text(MAX_PROBLEM_BYTES)
        note = "the command did not run, because its sandbox could not be set up"
        raise ToolError(f"{note}: {problem.strip()}")
    elif end.exceeded is not None:
        notes.append(explain_excess(end.exceeded, limits))
    elif end.code is None:
        raise ToolError(
            "the exit code of the command is unknown, because its keeper was killed; "
            "nothing of it runs any more, but check its effects"
        )
    else:
        errors, _ = collector.stderr.text(MAX_PROBLEM_BYTES)
        suspicion = suspect_limit(end.code, errors, limits)
        notes += [] if suspicion is None else [suspicion]
    if spool.dropped:
        reason = spool.problem or f"more than {MAX_TOOL_OUTPUT_BYTES // MIB} MiB; write it to a file"
        notes.append(f"{spool.dropped} bytes of the output are lost: {reason}")
    return BashResult(
        command=truncate_middle(command, MAX_ECHO_BYTES),
        workdir=truncate_middle(workdir, MAX_ECHO_BYTES),
        exit_code=None if end is None else end.code,
        success=end is not None and end.code == 0,
        timed_out=end is None,
        sandboxed=boxed,
        stdout="",
        stderr="",
        stdout_truncated=False,
        stderr_truncated=False,
        note="; ".join(notes) or None,
    )


def explain_refusals(output: str, scan: Scan) -> list[str]:
    """Return sentences about the closed and read-only paths that the errors in a command's output name."""
    sentences = []
    for note, signs, paths in (
        ("closed by a rule, not by the files' modes", ("Permission denied",), scan.masked),
        (
            "read-only for commands, because other programs execute or obey them",
            ("Read-only file system", "Device or resource busy"),
            {*scan.protected, *(path for path, writable in scan.mounts.items() if not writable)}
            - scan.links
            - scan.made,
        ),
        ("keeps its name, because of protected or closed paths in it", ("resource busy",), scan.pinned),
    ):
        text = "\n".join(line for line in output.split("\n") if any(sign in line for sign in signs))
        names = ((path, posixpath.basename(path)) for path in sorted(paths) if text)
        met = [
            path
            for path, name in names
            if name in text and re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text)
        ]
        if met:
            more = ", …" if len(met) > MAX_NAMED_PATHS else ""
            sentences.append(f"{note}: {', '.join(map(show_path, met[:MAX_NAMED_PATHS]))}{more}")
    return sentences


def explain_loopback(call: Invocation, arguments: BashArguments, gate: Gate) -> list[str]:
    """Return a sentence about the machine's own servers that a command may reach, and did not.

    They are those that the call asks for, and those that its command names and a rule opens.
    """
    hosts = [
        host
        for host in _destinations(arguments)
        if (address := address_of(host.host)) is not None and address.is_loopback
    ]
    for match in islice(_LOOPBACK.finditer(arguments.command), MAX_CALL_HOSTS):
        with suppress(ToolError):
            host = parse_destination(match[0])
            ruling = call.judge_claim(Claim("network", host.subject))
            hosts += [host] if ruling.decision == "allow" and ruling.exact else []
    reached = {host.rpartition(":")[2] for host in (*gate.connected, *gate.refused)}
    missed = [str(host) for host in dict.fromkeys(hosts) if str(host.port) not in reached]
    if not missed:
        return []
    return [
        f"no connection to {', '.join(missed)} reached the proxy: in the sandbox, no_proxy leaves these "
        "hosts to servers of the command itself. To reach the machine's, clear no_proxy, as curl --noproxy "
        "'' does"
    ]


def add_connections(result: BashResult, gate: Gate, *, no_proxy: bool) -> BashResult:
    """Return a result with its command's connections, and with the remedy for those that were refused."""
    notes = [] if result.note is None else [result.note]
    notes += ["its proxy could not be set up, so it had no network"] if no_proxy else []
    asks = [host for host in gate.refused if host not in gate.closed]
    if asks:
        notes.append(
            f"connections were refused; if they are needed, call bash again with network: {asks}, "
            "about which a rule or a person decides"
        )
    if gate.closed:
        closed = (
            host if host == address else f"{host}, which is {address}"
            for host, address in gate.closed.items()
        )
        notes.append(
            f"not on the public internet, or this machine: {'; '.join(closed)}. Such an address is opened "
            "only by a rule that names exactly that address, as net:ADDRESS:PORT (or net:localhost:PORT)"
        )
    return msgspec.structs.replace(
        result, connected=gate.connected, refused=gate.refused, note="; ".join(notes) or None
    )


def outcome_of(result: BashResult, collector: OutputCollector, spool: Spool) -> Outcome:
    """Return the outcome with the output, and remove the spool.

    Only a timeout is an error: a command may fail by its exit code.
    """
    room = MAX_TOOL_TEXT_BYTES - len(msgspec.json.encode(result))
    (stdout, all_stdout), (stderr, all_stderr) = collector.excerpts(room)
    result = msgspec.structs.replace(
        result,
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=not all_stdout,
        stderr_truncated=not all_stderr,
    )
    full_output = None if all_stdout and all_stderr else spool.read() or None
    spool.remove()
    text = msgspec.json.encode(result).decode()
    return Outcome(text, is_error=result.timed_out, full_output=full_output)


# In the background.


def _create_task(
    call: Invocation, arguments: BashArguments, workdir: Workdir, confinement: Confinement
) -> Outcome:
    """Return the outcome of a call whose command runs in the background. Errors: ToolError."""
    context = call.context
    _require_text(workdir.path)
    _require_text(context.workspace)
    event = TaskCreated(
        task_id=context.state.new_id(ids.TASK),
        title=abbreviate(arguments.description) or abbreviate(arguments.command),
        kind="shell",
        owner=context.run.guest or context.run.agent,
        shell=ShellCommand(
            command=arguments.command,
            workdir=workdir.path,
            workspace=context.workspace,
            repository=workdir.repository,
            sandboxed=confinement != "none",
            call_id=call.call_id,
            network="closed" if confinement == "bubblewrap" else "open",
            hosts=[str(destination) for destination in _destinations(arguments)],
        ),
    )

    def decide(store: Snapshot) -> Outcome:
        try:
            require_room(store, context.session.session_id)
        except TaskLimit as refusal:
            raise ToolError(refusal.message) from None
        row = {"task_id": event.task_id, "title": event.title, "status": "pending", "note": BACKGROUND_NOTE}
        return Outcome(msgspec.json.encode(row).decode(), events=(event,))

    return Outcome("", decide=decide)


def _require_text(path: str) -> None:
    """Reject a path that a record cannot hold. Errors: ToolError."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ToolError("a directory whose name is not valid text cannot be used in the background") from None
