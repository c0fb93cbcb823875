"""Agents: names, the record of a spawned agent as the fold of its events, and the status machine. Pure.

An agent's status follows from its first open run; nothing stores it. The audit folds the stream of the
agent's session through the same functions, so it has every change of the status that there ever was.

======================== ======================================================
status                   of an agent
======================== ======================================================
preparing                whose worktree is being made
queued                   whose first open run has not started
running                  whose first open run is executed
waiting_for_approval     whose first open run waits for an approval
waiting_for_user_input   whose first open run waits for an answer
idle                     without an open run
completed                that closes once it has settled, after its last run
failed                   whose last run failed, or that was closed by a failure
======================== ======================================================
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from kheishd.core.run import machine
from protocol.events.agent import AgentClosed, AgentCloseRequested, AgentPrepared, AgentRenamed, AgentSpawned
from protocol.events.run import RunAccepted, RunEnded
from protocol.events.session import SessionCreated
from protocol.limits.agent import MAX_AGENT_NAME_BYTES
from protocol.objects.agent import AgentProperties, AgentRetention, AgentStatus, AgentTransition, ManagedAgent
from protocol.objects.run import ENDED, Outcome, RunStatus
from protocol.structs import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kheishd.core.run.record import RunRecord
    from protocol.journal.envelope import Envelope
    from protocol.journal.line import JournalEvent
    from protocol.objects.agent import SpawnRequest

NICKNAMES: Final = (
    "Atlas",
    "Aurora",
    "Cinder",
    "Ion",
    "Juniper",
    "Lyra",
    "Nova",
    "Orion",
    "Sage",
    "Vega",
)
"""The nicknames of agents that are spawned without one."""

_SEPARATORS: Final = re.compile(r"[^a-z0-9]+")


# Names.


def make_name(requested: str) -> str:
    """Return the name of a request: lower-case letters, digits and single underscores."""
    slug = _SEPARATORS.sub("_", requested.lower()).strip("_")[:MAX_AGENT_NAME_BYTES].strip("_")
    return slug or "agent"


def choose_nickname(agent_id: str) -> str:
    """Return the nickname of an agent that was spawned without one, before it is made unique."""
    return NICKNAMES[sha256(agent_id.encode()).digest()[0] % len(NICKNAMES)]


def find_free(base: str, separator: str, is_taken: Callable[[str], bool]) -> str:
    """Return the base, or the base with the first free number from 2.

    Numbers are given in order and stay taken, so a binary search finds the first free one.
    """
    if not is_taken(base):
        return base
    low, high = 1, 2
    while is_taken(f"{base}{separator}{high}"):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if is_taken(f"{base}{separator}{middle}"):
            low = middle
        else:
            high = middle
    return f"{base}{separator}{high}"


def hash_request(request: SpawnRequest) -> str:
    """Return the SHA-256 (hex) of what a spawn asks for, by which a repeated request is recognized."""
    content = msgspec.to_builtins(request)
    for name in ("idempotency_key", "check", "spawn_request_id", "parent"):
        content.pop(name, None)
    if request.shells == "stop":
        # Requests of earlier versions did not have it, and may be repeated.
        del content["shells"]
    return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


# The record.


def evolve(agent: ManagedAgent | None, envelope: Envelope, event: JournalEvent) -> ManagedAgent:
    """Return the agent after an event of its session's stream.

    Errors: AssertionError for a first event that is not ``AgentSpawned``: the journal is damaged.
    """
    if isinstance(event, AgentSpawned):
        assert envelope.session_id is not None
        return ManagedAgent(
            **fields_of(AgentProperties, event),
            agent_id=envelope.session_id,
            spawned_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
            updated_cursor=envelope.cursor,
        )
    assert agent is not None, "an agent's first event is its spawn"
    match event:
        case RunEnded(outcome=outcome, error=error):
            changed = replace(
                agent,
                last_run_id=envelope.run_id,
                last_outcome=outcome,
                last_error=error,
                settled_at_ms=envelope.at_ms,
            )
        case AgentPrepared(base_commit=commit) if agent.worktree is not None:
            changed = replace(agent, worktree=replace(agent.worktree, base_commit=commit))
        case AgentRenamed(nickname=nickname):
            changed = replace(agent, nickname=nickname)
        case AgentCloseRequested(note=note, failed=failed):
            changed = replace(agent, state="closing", close_note=note, failed=failed)
        case AgentClosed(note=note, kept_worktree=path, kept_branch=branch):
            changed = replace(
                agent,
                state="closed",
                close_note=note or agent.close_note,
                closed_at_ms=envelope.at_ms,
                kept_worktree=path,
                kept_branch=branch,
            )
        case _:
            return agent
    return replace(changed, updated_cursor=envelope.cursor)


def is_preparing(agent: ManagedAgent) -> bool:
    """Whether the worktree of an agent is to be made: its runs do not start yet."""
    return agent.state == "open" and agent.worktree is not None and agent.worktree.base_commit is None


# The status.

_STATUS_OF_RUN: Final[Mapping[RunStatus, AgentStatus]] = {
    "queued": "queued",
    "running": "running",
    "waiting_for_approval": "waiting_for_approval",
    "waiting_for_user_question": "waiting_for_user_input",
    "waiting_for_event": "waiting_for_event",
}


def status_of(
    run_status: RunStatus | None,
    last_outcome: Outcome | None,
    *,
    retention: AgentRetention = "retain",
    failed: bool = False,
    preparing: bool = False,
) -> AgentStatus:
    """Return an agent's status.

    Args:   ``run_status``: that of its first open run; None without one.
            ``last_outcome``: the outcome of its newest run that has ended.
            ``failed``: it was closed because of a failure.
            ``preparing``: its worktree is being made.
    """
    if preparing:
        return "preparing"
    if run_status is not None:
        return _STATUS_OF_RUN[run_status]
    if failed or last_outcome == "failed":
        return "failed"
    return "completed" if retention == "close_on_settle" and last_outcome == "completed" else "idle"


class AuditFold:
    """The life of one agent, folded from the stream of its session."""

    def __init__(self) -> None:
        self._agent: ManagedAgent | None = None
        self._runs: dict[str, RunRecord] = {}
        self._last_outcome: Outcome | None = None
        self._status: AgentStatus | None = None

    def fold(self, envelope: Envelope, event: JournalEvent) -> Iterator[AgentTransition]:
        """Fold an event; yield the agent's transition if the event is one."""
        run_id = envelope.run_id
        if isinstance(event, AgentSpawned) or self._agent is not None:
            self._agent = evolve(self._agent, envelope, event)
        if run_id is not None and (run_id in self._runs or isinstance(event, RunAccepted)):
            run = machine.evolve(self._runs.get(run_id), envelope, event)
            if run.status in ENDED:
                del self._runs[run_id]
                self._last_outcome = event.outcome if isinstance(event, RunEnded) else None
            else:
                self._runs[run_id] = run
        agent, first = self._agent, next(iter(self._runs.values()), None)
        status = status_of(
            first.status if first is not None else None,
            self._last_outcome,
            retention=agent.retention if agent is not None else "retain",
            failed=agent is not None and agent.failed,
            preparing=agent is not None and is_preparing(agent),
        )
        previous, self._status = self._status, status
        is_life = isinstance(
            event,
            SessionCreated | AgentSpawned | AgentPrepared | AgentRenamed | AgentCloseRequested | AgentClosed,
        )
        if is_life or status != previous:
            yield AgentTransition(
                cursor=envelope.cursor,
                at_ms=envelope.at_ms,
                event=str(type(event).__struct_config__.tag),
                status=status,
                previous=previous,
                run_id=run_id,
                actor=envelope.actor,
                note=getattr(event, "note", ""),
            )
