"""The bounds of a session: never wider than those of any session above it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.core.scope import intersect_scopes
from kheishd.objects.talk.bounds import bounds_of
from kheishd.store.environment import Snapshot
from kheishd.store.tables import SESSIONS
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import CapabilityScope, Session
from tests.support.household import AGENTS, Household
from tests.support.runtimes import make_runtime

RUNTIME = make_runtime(definitions=AGENTS)


class Family(Snapshot):
    """A snapshot that holds only sessions, by id."""

    def __init__(self, sessions: list[Session]) -> None:
        self._sessions = {session.session_id: session for session in sessions}

    def get(self, table: Any, *key: Any) -> Any:
        """Return a session."""
        assert table is SESSIONS
        return self._sessions.get(key[0])


def session(number: int, scope: CapabilityScope, mode: PermissionMode | None) -> Session:
    """Return a session whose parent is the previous one."""
    return Session(
        session_id=f"s{number}",
        agent="default",
        status="open",
        created_at_ms=0,
        updated_at_ms=0,
        parent_session_id=f"s{number - 1}" if number else None,
        scope=scope,
        permission_mode=mode,
    )


NAMES = st.none() | st.lists(st.sampled_from("abc"), unique=True)
SCOPES = st.builds(CapabilityScope, tools=NAMES, skills=NAMES, members=NAMES)
GENERATIONS = st.lists(st.tuples(SCOPES, st.none() | st.sampled_from(MODES)), min_size=1, max_size=6)


@given(GENERATIONS)
def test_no_session_is_wider_than_any_above_it(
    generations: list[tuple[CapabilityScope, PermissionMode | None]],
) -> None:
    """Each generation of sessions only removes rights, whatever the records hold."""
    family = [session(number, *generation) for number, generation in enumerate(generations)]
    store = Family(family)
    bounds = [bounds_of(store, RUNTIME, member) for member in family]
    for depth, (below, above) in enumerate(zip(bounds[1:], bounds, strict=False), 1):
        assert intersect_scopes(below.scope, above.scope) == below.scope
        assert MODES.index(below.mode) <= MODES.index(above.mode)
        assert below.depth == depth


def test_a_mode_is_the_sessions_the_agents_or_the_daemons() -> None:
    """The session's mode comes before the agent's and the daemon's; a guest has its own."""
    plain, plan = session(0, CapabilityScope(), None), session(0, CapabilityScope(), "acceptEdits")
    reviewer = AGENTS["reviewer"]
    assert bounds_of(Family([plain]), RUNTIME, plain).mode == "default"
    limited = make_runtime(definitions=AGENTS, permissions=PermissionsSection(max_mode="default"))
    assert bounds_of(Family([plan]), limited, plan).mode == "default"
    assert bounds_of(Family([plain]), RUNTIME, plain, reviewer).mode == "plan"
    assert bounds_of(Family([plan]), RUNTIME, plan, reviewer).mode == "acceptEdits"


async def test_narrowing_a_parent_narrows_its_children(idle: Household) -> None:
    """A child's next run and its next child have no more rights than the root has then."""
    await idle.call("session.create", session_id="root", permission_mode="acceptEdits")
    await idle.call(
        "session.create", session_id="child", parent_session_id="root", scope={"tools": ["a", "b"]}
    )

    async def read_pinned() -> Any:
        sent = await idle.call("session.send", session_id="child", content="x")
        return (await idle.call("run.get", run_id=sent["run_id"]))["pinned"]

    original = await read_pinned()
    assert (original["tools"], original["permission_mode"]) == (["a", "b"], "acceptEdits")
    await idle.call("session.update", session_id="root", scope={"tools": ["b"]}, permission_mode="plan")
    narrowed = await read_pinned()
    assert (narrowed["tools"], narrowed["permission_mode"]) == (["b"], "plan")
    grandchild = await idle.call("session.create", parent_session_id="child")
    assert (grandchild["scope"], grandchild["permission_mode"]) == ({"tools": ["b"]}, "plan")
