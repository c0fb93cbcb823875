"""Records of spawned agents, and the indexes by which they are found, counted and closed."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from kheishd.core import agent as rules
from kheishd.records.projection import IndexRow, Projection
from kheishd.store.tables import (
    AGENTS,
    AGENTS_BY_NAME,
    AGENTS_BY_NICKNAME,
    AGENTS_BY_PATH,
    AGENTS_BY_RUN,
    AGENTS_BY_TIME,
    AGENTS_CLOSING,
    AGENTS_LIVE,
    AGENTS_PREPARING,
    AGENTS_SETTLED,
    AGENTS_TIED,
    SPAWN_RECEIPTS,
)
from protocol.events.agent import AgentClosed, AgentCloseRequested, AgentPrepared, AgentRenamed, AgentSpawned
from protocol.events.run import RunEnded
from protocol.text import fold_text

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot
    from protocol.objects.agent import ManagedAgent


def hash_key(text: str) -> str:
    """Return the SHA-256 (hex) of a text that may be too long for a key, or hold any character."""
    return sha256(text.encode()).hexdigest()


def index_rows(agent: ManagedAgent) -> frozenset[IndexRow]:
    """Return the index rows of a spawned agent."""
    agent_id = agent.agent_id
    rows = [
        IndexRow(AGENTS_BY_PATH, (agent.path,), agent_id),
        IndexRow(AGENTS_BY_NICKNAME, (hash_key(fold_text(agent.nickname)),), agent_id),
        IndexRow(AGENTS_BY_TIME, (agent.spawned_at_ms, agent.root_id, agent_id)),
        IndexRow(SPAWN_RECEIPTS, (agent.parent_id, hash_key(agent.spawn_request_id)), agent_id),
    ]
    if agent.spawned_by_run_id is not None:
        rows.append(IndexRow(AGENTS_BY_RUN, (agent.spawned_by_run_id, agent_id)))
    if agent.state != "closed":
        rows.append(IndexRow(AGENTS_LIVE, (agent.root_id, agent.parent_id, agent_id)))
        rows.append(IndexRow(AGENTS_BY_NAME, (agent.name, agent_id)))
    if rules.is_preparing(agent):
        rows.append(IndexRow(AGENTS_PREPARING, (agent_id,)))
    if agent.state == "closing":
        rows.append(IndexRow(AGENTS_CLOSING, (agent_id,)))
    if agent.state == "open" and agent.retention == "close_on_settle":
        if agent.settled_at_ms is not None:
            rows.append(IndexRow(AGENTS_SETTLED, (agent_id,)))
        if agent.spawned_by_run_id is not None:
            rows.append(IndexRow(AGENTS_TIED, (agent.spawned_by_run_id, agent_id)))
    return frozenset(rows)


def source(store: Snapshot, key: tuple[str], agent: ManagedAgent) -> tuple[str, int]:
    """Return the stream and cursor of the event that spawned the agent."""
    return agent.agent_id, agent.created_cursor


AGENT_RECORDS: Final = Projection(
    kind="agent",
    table=AGENTS,
    begins=AgentSpawned,
    events=(AgentSpawned, AgentPrepared, RunEnded, AgentRenamed, AgentCloseRequested, AgentClosed),
    key=lambda envelope, event: None if envelope.session_id is None else (envelope.session_id,),
    evolve=rules.evolve,
    source=source,
    rows=index_rows,
    indexes=(
        AGENTS_BY_PATH,
        AGENTS_BY_NAME,
        AGENTS_BY_NICKNAME,
        AGENTS_BY_TIME,
        AGENTS_BY_RUN,
        AGENTS_LIVE,
        AGENTS_PREPARING,
        AGENTS_CLOSING,
        AGENTS_SETTLED,
        AGENTS_TIED,
        SPAWN_RECEIPTS,
    ),
    # One record in a stream. The runs of a session whose agent was not spawned end, too.
    bounded=True,
    strays=True,
)
