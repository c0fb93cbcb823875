"""Agents: their names, their records and their status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.agent import (
    NICKNAMES,
    AuditFold,
    choose_nickname,
    evolve,
    find_free,
    hash_request,
    make_name,
    status_of,
)
from protocol.events.agent import AgentClosed, AgentCloseRequested, AgentRenamed, AgentSpawned
from protocol.events.run import RunAccepted, RunEnded, RunStarted
from protocol.events.session import SessionCreated
from protocol.journal.envelope import Envelope
from protocol.limits.agent import MAX_AGENT_NAME_BYTES
from protocol.objects.agent import AgentTransition, SpawnParams
from protocol.objects.run import RunError
from tests.support.histories import PINNED

if TYPE_CHECKING:
    from protocol.journal.line import JournalEvent

SPAWNED = AgentSpawned(
    parent_id="ses_1",
    root_id="ses_1",
    name="scout",
    path="ses_1/scout",
    nickname="Atlas",
    spawn_request_id="r",
    fingerprint="f",
    launch_run_id="run_1",
)
ACCEPTED = RunAccepted(input_id="inp_1", agent="default", pinned=PINNED)


@pytest.mark.parametrize(
    ("requested", "name"),
    [
        ("Scout", "scout"),
        ("Look at  /etc/passwd!", "look_at_etc_passwd"),
        ("../../root", "root"),
        ("日本", "agent"),
        ("", "agent"),
        ("_a__b_", "a_b"),
    ],
)
def test_a_name_is_a_slug(requested: str, name: str) -> None:
    """A name has lower-case letters, digits and single underscores, and is never empty."""
    assert make_name(requested) == name


@given(st.text())
def test_any_request_gives_a_name_that_a_path_can_hold(requested: str) -> None:
    """A name has no slash and at most the limit's bytes."""
    name = make_name(requested)
    assert 0 < len(name.encode()) <= MAX_AGENT_NAME_BYTES
    assert "/" not in name


@given(st.integers(0, 300))
def test_a_taken_name_gets_the_first_free_number(taken: int) -> None:
    """The numbers begin with 2 and leave no gap, however many are taken."""
    names: set[str] = set()
    for _ in range(taken):
        names.add(find_free("task", "_", names.__contains__))
    expected = "task" if not taken else f"task_{taken + 1}"
    assert find_free("task", "_", names.__contains__) == expected


def test_nicknames_are_chosen_from_a_list() -> None:
    """The same agent always gets the same nickname."""
    assert choose_nickname("ses_1") in NICKNAMES
    assert choose_nickname("ses_1") == choose_nickname("ses_1")


def test_a_request_is_recognized_by_what_it_asks_for() -> None:
    """The keys of a request do not count, its task does."""
    first = SpawnParams(parent="p", name="a", prompt="x", idempotency_key="1")
    assert hash_request(first) == hash_request(SpawnParams(parent="q", name="a", prompt="x"))
    assert hash_request(first) != hash_request(SpawnParams(parent="p", name="a", prompt="y"))


def test_the_record_follows_its_events() -> None:
    """A run's end, a new nickname and the close change the record; other events do not."""
    agent = evolve(None, Envelope(cursor=1, at_ms=10, session_id="ses_2"), SPAWNED)
    assert (agent.agent_id, agent.state, agent.settled_at_ms) == ("ses_2", "open", None)
    error = RunError("overloaded", "no")
    agent = evolve(
        agent, Envelope(cursor=2, at_ms=20, run_id="run_1"), RunEnded(outcome="failed", error=error)
    )
    assert (agent.last_run_id, agent.last_outcome, agent.last_error) == ("run_1", "failed", error)
    assert agent.settled_at_ms == 20
    agent = evolve(agent, Envelope(cursor=3, at_ms=30), AgentRenamed(nickname="Nova"))
    agent = evolve(agent, Envelope(cursor=4, at_ms=40), AgentCloseRequested(note="enough"))
    assert (agent.nickname, agent.state, agent.closed_at_ms) == ("Nova", "closing", None)
    agent = evolve(agent, Envelope(cursor=5, at_ms=50), AgentClosed())
    assert (agent.state, agent.close_note, agent.closed_at_ms) == ("closed", "enough", 50)
    assert evolve(agent, Envelope(cursor=6, at_ms=60), RunStarted(starts=1)) is agent


def test_a_record_begins_with_its_spawn() -> None:
    """An event before the spawn shows that the journal is damaged."""
    with pytest.raises(AssertionError):
        evolve(None, Envelope(cursor=1, at_ms=1), AgentClosed())


def test_the_status_is_that_of_the_first_open_run() -> None:
    """Without one, the last outcome and the retention decide."""
    assert status_of("queued", "failed") == "queued"
    assert status_of("running", None) == "running"
    assert status_of("waiting_for_approval", None) == "waiting_for_approval"
    assert status_of("waiting_for_user_question", None) == "waiting_for_user_input"
    assert status_of(None, None) == "idle"
    assert status_of(None, "completed") == "idle"
    assert status_of(None, "completed", retention="close_on_settle") == "completed"
    assert status_of(None, "cancelled", retention="close_on_settle") == "idle"
    assert status_of(None, "failed") == "failed"
    assert status_of(None, "completed", failed=True) == "failed"


def test_the_audit_has_every_transition() -> None:
    """An event that changes neither the status nor the agent's life is not in it."""
    events: list[tuple[str | None, JournalEvent]] = [
        (None, SessionCreated(agent="default", parent_session_id="ses_1")),
        (None, SPAWNED),
        ("run_1", ACCEPTED),
        ("run_1", RunStarted(starts=1)),
        ("run_1", RunStarted(starts=2)),
        ("run_1", RunEnded(outcome="completed")),
        (None, AgentCloseRequested(note="enough", failed=True)),
        (None, AgentClosed()),
    ]
    fold = AuditFold()
    audit: list[AgentTransition] = []
    for cursor, (run_id, event) in enumerate(events, 1):
        audit += fold.fold(Envelope(cursor=cursor, at_ms=cursor, session_id="ses_2", run_id=run_id), event)
    assert [(entry.event, entry.previous, entry.status) for entry in audit] == [
        ("session_created", None, "idle"),
        ("agent_spawned", "idle", "idle"),
        ("run_accepted", "idle", "queued"),
        ("run_started", "queued", "running"),
        ("run_ended", "running", "idle"),
        ("agent_close_requested", "idle", "failed"),
        ("agent_closed", "failed", "failed"),
    ]
    assert audit[-2].note == "enough"
