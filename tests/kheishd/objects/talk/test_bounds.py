"""The bounds of a session: never wider than those of any session above it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.core.profiles import PROFILES
from kheishd.core.scope import Bounds
from kheishd.objects.talk.bounds import bounds_of
from kheishd.store.environment import Snapshot
from kheishd.store.tables import SESSIONS
from protocol.objects.permission import MODES, ItemKind, PermissionMode
from protocol.objects.session import CapabilityScope, CredentialScope, PersonaBinding, Session
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


def session(number: int, scope: CapabilityScope, mode: PermissionMode | None, **fields: Any) -> Session:
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
        **fields,
    )


TOOLS = ("bash", "read_file", "write_file", "spawn_agent", "mcp__git__push")
NAMES = st.none() | st.lists(st.sampled_from((*TOOLS, "mcp__*")), unique=True)
SCOPES = st.builds(CapabilityScope, tools=NAMES, skills=NAMES, members=NAMES, mcp_tools=NAMES)
CREDENTIALS = st.builds(CredentialScope, routes=NAMES, connectors=NAMES, mcp_credentials=NAMES)
PERSONAS = st.none() | SCOPES.map(
    lambda scope: PersonaBinding(
        persona_id="p", version=1, display_name="P", soul_sha256="", bound_at_ms=0, scope=scope
    )
)
FIELDS = st.fixed_dictionaries(
    {
        "credential_scope": CREDENTIALS,
        "persona": PERSONAS,
        "profile": st.none() | st.sampled_from([*PROFILES, "of a later version"]),
        "blocked_tools": st.lists(st.sampled_from((*TOOLS, "mcp__*")), max_size=2),
        "agent": st.sampled_from(["default", "reviewer", "gone"]),
    }
)
KINDS: tuple[ItemKind, ...] = ("tool", "skill", "member", "route", "connector", "mcp_credential")


def items_of(bounds: Bounds) -> set[tuple[str, str]]:
    """Return everything that bounds allow."""
    return {(kind, name) for kind in KINDS for name in TOOLS if bounds.find_problem(kind, name) is None}


GENERATIONS = st.lists(st.tuples(SCOPES, st.none() | st.sampled_from(MODES), FIELDS), min_size=1, max_size=6)


@given(GENERATIONS, st.data())
def test_no_session_is_wider_than_any_above_it(
    generations: list[tuple[CapabilityScope, PermissionMode | None, dict[str, Any]]], data: st.DataObject
) -> None:
    """Each generation only removes rights, whatever the records hold, also after a change of any of them."""
    family = [
        replace(session(number, scope, mode), **fields)
        for number, (scope, mode, fields) in enumerate(generations)
    ]
    for _ in range(2):
        store = Family(family)
        bounds = [bounds_of(store, RUNTIME, member) for member in family]
        for depth, (below, above) in enumerate(zip(bounds[1:], bounds, strict=False), 1):
            assert items_of(below) <= items_of(above)
            assert MODES.index(below.mode) <= MODES.index(above.mode)
            assert below.depth == depth
        # A persona is bound or unbound, somewhere.
        index = data.draw(st.integers(0, len(family) - 1))
        family[index] = replace(family[index], persona=data.draw(PERSONAS))


def test_an_unknown_profile_has_no_tools() -> None:
    """A profile of a later version, in a store that an older one opens, does not fail open."""
    bounds = bounds_of(Family([]), RUNTIME, session(0, CapabilityScope(), None, profile="later"))
    assert bounds.scope.tools == []


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
