"""A session's record, and the law of boundaries: rights only ever narrow."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.session import both, evolve, inherited, mode_within, narrower, narrowest, narrowest_mode
from protocol.errors.token import ScopeWouldWiden
from protocol.events.conversation import ConversationBound
from protocol.events.run import InputReceived, MessageAppended, RunEnded
from protocol.events.session import SessionCreated, SessionEnded, SessionRenamed, SessionUpdated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_event, encode_line
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import CapabilityScope, Session
from protocol.transcript import Message, Text, Usage
from tests.support.machine import accepted

CREATED = SessionCreated(agent="default", sender="user", metadata={"team": "red"})


def fold(*events: tuple[JournalEvent, str | None]) -> Session:
    """The session after its creation and these events, each with the run it belongs to."""
    session = None
    for cursor, (event, run_id) in enumerate(((CREATED, None), *events), 1):
        envelope = Envelope(cursor=cursor, at_ms=1_000 * cursor, session_id="ses_1", run_id=run_id)
        stored = decode_event(encode_line(envelope, event))
        assert not isinstance(stored, Unknown)
        session = evolve(session, envelope, stored)
    assert session is not None
    return session


def test_a_session_begins_with_its_creation() -> None:
    """It has what its first event says; a journal that begins otherwise is damaged."""
    session = fold()
    assert (session.agent, session.sender, session.metadata) == ("default", "user", {"team": "red"})
    assert (session.created_cursor, session.updated_cursor, session.created_at_ms) == (1, 1, 1_000)
    with pytest.raises(AssertionError, match="creation"):
        evolve(None, Envelope(cursor=1, at_ms=1, session_id="ses_1"), SessionEnded())


def test_runs_stand_in_line_until_they_end() -> None:
    """The first open run holds the slot; one that ends leaves the line, wherever it stands."""
    line = [(accepted(), "run_1"), (accepted(), "run_2"), (accepted(), "run_3")]
    assert fold(*line).open_runs == ["run_1", "run_2", "run_3"]
    session = fold(*line, (RunEnded(outcome="cancelled"), "run_2"), (RunEnded(outcome="failed"), "run_1"))
    assert session.open_runs == ["run_3"]
    assert session.runs == 3


def test_usage_adds_up() -> None:
    """What every message cost, together."""
    said = MessageAppended(item_id="itm", message=Message("assistant", [Text("x")]), usage=Usage(5, 7))
    assert fold((said, "run_1"), (said, "run_1")).usage == Usage(10, 14)


def test_an_update_sets_and_clears() -> None:
    """New values by name, null for cleared; a scope comes back as its own type."""
    session = fold(
        (SessionUpdated(changes={"route": "local", "model": "m", "scope": {"tools": []}}), None),
        (SessionUpdated(changes={"route": None}), None),
        (SessionRenamed(title="A title"), None),
    )
    assert (session.route, session.model, session.title) == (None, "m", "A title")
    assert session.scope == CapabilityScope(tools=[])
    assert fold((SessionEnded(), None)).status == "ended"


def test_what_does_not_concern_the_record_leaves_it_as_it_is() -> None:
    """Not even its cursor moves, so that a turn writes it no more often than it must."""
    events: tuple[JournalEvent, ...] = (
        InputReceived(input_id="inp_1", items=[Text("hello")]),
        ConversationBound(agent="default", sender="user"),
    )
    assert fold(*((event, None) for event in events)) == fold()


# Boundaries.

NAMES = st.one_of(st.none(), st.lists(st.sampled_from("abcd"), unique=True))
SCOPES = st.builds(CapabilityScope, tools=NAMES, skills=NAMES, mcp=NAMES, members=NAMES, credentials=NAMES)
FIELDS = CapabilityScope.__struct_fields__


def rights(scope: CapabilityScope) -> set[tuple[str, str]]:
    """Everything a scope allows, of the names there are here and one that nobody listed."""
    return {
        (field, name)
        for field in FIELDS
        for name in "abcde"
        if (allowed := getattr(scope, field)) is None or name in allowed
    }


def test_null_is_everything_and_an_empty_list_is_nothing() -> None:
    """The two are never mistaken for each other."""
    assert both(None, None) is None
    assert both(None, []) == []
    assert both([], ["a"]) == []
    assert both(["a", "b"], ["b", "c"]) == ["b"]
    assert inherited(CapabilityScope(tools=[]), CapabilityScope()).tools == []
    assert narrower(CapabilityScope(), CapabilityScope(tools=[])).tools == []
    with pytest.raises(ScopeWouldWiden, match="'tools' is limited"):
        narrower(CapabilityScope(tools=[]), CapabilityScope())
    with pytest.raises(ScopeWouldWiden, match="'mcp' did not allow b"):
        narrower(CapabilityScope(mcp=["a"]), CapabilityScope(mcp=["a", "b"]))


@given(SCOPES, SCOPES)
def test_narrowest_allows_exactly_what_both_allow(one: CapabilityScope, other: CapabilityScope) -> None:
    """An intersection, in every field."""
    assert rights(narrowest(one, other)) == rights(one) & rights(other)


@given(SCOPES, st.lists(st.tuples(st.sampled_from(["spawn", "update", "agent"]), SCOPES), max_size=8))
def test_no_chain_of_spawns_yields_a_right_the_root_lacked(
    root: CapabilityScope, steps: list[tuple[str, Any]]
) -> None:
    """Whatever is asked for along the way, and refused or given, the root's rights are the ceiling."""
    scope = root
    for step, asked in steps:
        before = rights(scope)
        try:
            match step:
                case "spawn":
                    scope = inherited(scope, asked)
                case "update":
                    scope = narrower(scope, asked)
                case _:
                    scope = narrowest(scope, asked)
        except ScopeWouldWiden:
            assert not rights(asked) <= before, "what is no more than before is never refused"
        assert rights(scope) <= before
    assert rights(scope) <= rights(root)


@given(SCOPES, SCOPES)
def test_a_child_that_asks_for_nothing_inherits(parent: CapabilityScope, asked: CapabilityScope) -> None:
    """A field left out is the parent's; one that is given is what was asked for, or refused."""
    try:
        given_ = inherited(parent, asked)
    except ScopeWouldWiden:
        return
    for field in FIELDS:
        own = getattr(asked, field)
        assert getattr(given_, field) == (getattr(parent, field) if own is None else own)


MODE = st.sampled_from(MODES)


@given(MODE, st.none() | MODE, st.none() | MODE)
def test_a_childs_mode_is_never_wider_than_its_parents(
    ceiling: PermissionMode, asked: PermissionMode | None, by_agent: PermissionMode | None
) -> None:
    """What is asked for is given or refused; else the agent's own mode counts where it is narrower."""
    try:
        mode = mode_within(ceiling, asked, by_agent)
    except ScopeWouldWiden:
        assert asked is not None
        assert MODES.index(asked) > MODES.index(ceiling)
        return
    assert MODES.index(mode) <= MODES.index(ceiling)
    assert mode == (asked or narrowest_mode(ceiling, by_agent))
