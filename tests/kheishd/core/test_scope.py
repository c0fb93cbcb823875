"""The law of scopes: rights only ever narrow."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.profiles import PROFILES
from kheishd.core.scope import (
    Bounds,
    ChildRequest,
    ChildRights,
    Link,
    Restriction,
    bound_by,
    choose_mode,
    inherit_scope,
    intersect_names,
    intersect_scopes,
    narrow_for_child,
    narrower_mode,
    require_narrower,
)
from protocol.errors.token import ScopeWouldWiden
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import CapabilityScope, CredentialScope

NAMES = st.one_of(st.none(), st.lists(st.sampled_from("abcd"), unique=True))
SCOPES = st.builds(CapabilityScope, tools=NAMES, skills=NAMES, mcp=NAMES, members=NAMES, credentials=NAMES)
FIELDS = CapabilityScope.__struct_fields__


def spell_out(scope: CapabilityScope) -> set[tuple[str, str]]:
    """Return all rights of a scope, for the listed names and an unlisted one."""
    return {
        (field, name)
        for field in FIELDS
        for name in "abcde"
        if (allowed := getattr(scope, field)) is None or name in allowed
    }


def test_null_is_everything_and_an_empty_list_is_nothing() -> None:
    """Null allows every name and an empty list none."""
    assert intersect_names(None, None) is None
    assert intersect_names(None, []) == []
    assert intersect_names([], ["a"]) == []
    assert intersect_names(["a", "b"], ["b", "c"]) == ["b"]
    assert inherit_scope(CapabilityScope(tools=[]), CapabilityScope()).tools == []
    assert require_narrower(CapabilityScope(), CapabilityScope(tools=[])).tools == []
    with pytest.raises(ScopeWouldWiden, match="'tools' is limited"):
        require_narrower(CapabilityScope(tools=[]), CapabilityScope())
    with pytest.raises(ScopeWouldWiden, match="'mcp' did not allow b"):
        require_narrower(CapabilityScope(mcp=["a"]), CapabilityScope(mcp=["a", "b"]))


@given(SCOPES, SCOPES)
def test_intersect_scopes(scope: CapabilityScope, bound: CapabilityScope) -> None:
    """The intersection allows exactly what both scopes allow."""
    assert spell_out(intersect_scopes(scope, bound)) == spell_out(scope) & spell_out(bound)


@given(SCOPES, st.lists(st.tuples(st.sampled_from(["spawn", "update", "agent"]), SCOPES), max_size=8))
def test_no_chain_of_spawns_widens(root: CapabilityScope, steps: list[tuple[str, Any]]) -> None:
    """After any chain of spawns and updates, the root's rights are the ceiling."""
    scope = root
    for kind, requested in steps:
        previous = spell_out(scope)
        try:
            match kind:
                case "spawn":
                    scope = inherit_scope(scope, requested)
                case "update":
                    scope = require_narrower(scope, requested)
                case _:
                    scope = intersect_scopes(scope, requested)
        except ScopeWouldWiden:
            assert not spell_out(requested) <= previous, "a narrower scope is never refused"
        assert spell_out(scope) <= previous
    assert spell_out(scope) <= spell_out(root)


@given(SCOPES, SCOPES)
def test_inherit_scope(parent: CapabilityScope, requested: CapabilityScope) -> None:
    """An absent field is the parent's; a requested one is allowed or refused."""
    try:
        granted = inherit_scope(parent, requested)
    except ScopeWouldWiden:
        return
    for field in FIELDS:
        own = getattr(requested, field)
        assert getattr(granted, field) == (getattr(parent, field) if own is None else own)


MODE = st.sampled_from(MODES)


@given(MODE, st.none() | MODE, st.none() | MODE)
def test_choose_mode(
    ceiling: PermissionMode, requested: PermissionMode | None, by_agent: PermissionMode | None
) -> None:
    """A requested mode is allowed or refused; else the agent's own mode counts if it is narrower."""
    try:
        mode = choose_mode(ceiling, requested, by_agent)
    except ScopeWouldWiden:
        assert requested is not None
        assert MODES.index(requested) > MODES.index(ceiling)
        return
    assert MODES.index(mode) <= MODES.index(ceiling)
    assert mode == (requested or narrower_mode(ceiling, by_agent))


# Names with a marker, and limits.

TOOLS = ("bash", "read_file", "mcp__git__push", "mcp__git__log", "mcp__web__get")
TOOL_NAMES = st.none() | st.lists(st.sampled_from((*TOOLS, "mcp__*")), unique=True)
SERVERS = st.none() | st.lists(st.sampled_from(("git", "web")), unique=True)
CREDENTIAL_NAMES = st.none() | st.lists(st.sampled_from(("a", "b", "a:KEY", "b:KEY")), unique=True)
TOOL_SCOPES = st.builds(
    CapabilityScope,
    tools=TOOL_NAMES,
    mcp=SERVERS,
    mcp_tools=TOOL_NAMES,
    credentials=CREDENTIAL_NAMES,
)
CREDENTIAL_SCOPES = st.builds(
    CredentialScope,
    routes=CREDENTIAL_NAMES,
    connectors=CREDENTIAL_NAMES,
    connector_credentials=CREDENTIAL_NAMES,
    mcp_credentials=CREDENTIAL_NAMES,
)
BLOCKED = st.lists(st.sampled_from((*TOOLS, "mcp__*")), max_size=2)
LINKS = st.tuples(TOOL_SCOPES, CREDENTIAL_SCOPES, BLOCKED.map(tuple)).map(lambda fields: Link(*fields))
ITEMS = (
    *(("tool", name) for name in TOOLS),
    *(
        (kind, name)
        for kind in ("route", "connector", "connector_credential", "mcp_credential")
        for name in ("a", "b", "a:KEY", "b:KEY", "c")
    ),
)


def items_of(limits: Restriction) -> set[Any]:
    """Return all items that limits allow."""
    return {item for item in ITEMS if limits.find_problem(*item) is None}  # type: ignore[arg-type]


@given(st.lists(LINKS, max_size=4))
def test_bounds_allow_exactly_what_every_link_allows(links: list[Link]) -> None:
    """An item is in the bounds if and only if no link excludes it."""
    allowed = set(ITEMS)
    for link in links:
        allowed &= items_of(link)
    assert items_of(bound_by(tuple(links), "default")) == allowed


@pytest.mark.parametrize(
    ("limits", "kind", "name", "problem"),
    [
        (Restriction(CapabilityScope(tools=["bash"])), "tool", "read_file", "'read_file': it has only bash"),
        (
            Restriction(CapabilityScope(tools=[])),
            "tool",
            "bash",
            "its tools do not include 'bash': it has none",
        ),
        (Restriction(CapabilityScope(mcp=["web"])), "tool", "mcp__git__push", "its mcp do not include 'git'"),
        (
            Restriction(CapabilityScope(mcp_tools=[])),
            "tool",
            "mcp__git__push",
            "its mcp_tools do not include",
        ),
        (Restriction(CapabilityScope(mcp_tools=[], mcp=[])), "tool", "bash", None),
        (Restriction(blocked=("bash",)), "tool", "bash", "it blocks 'bash'"),
        (Restriction(blocked=("mcp__*",)), "tool", "mcp__git__push", "it blocks"),
        (Restriction(CapabilityScope(mcp=[])), "mcp_server", "git", "its mcp do not include 'git'"),
        (Restriction(CapabilityScope(skills=["a"])), "skill", "b", "its skills do not include 'b'"),
        (Restriction(CapabilityScope(members=["a"])), "member", "b", "its members do not include 'b'"),
        (
            Restriction(credentials=CredentialScope(connectors=[], connector_credentials=["mail:KEY"])),
            "connector_credential",
            "mail:KEY",
            "its connectors do not include 'mail'",
        ),
        (
            Restriction(CapabilityScope(credentials=[])),
            "mcp_credential",
            "git",
            "its credentials do not include",
        ),
        (Restriction(), "connector_credential", "mail:KEY", None),
    ],
)
def test_problems_name_the_list(limits: Restriction, kind: Any, name: str, problem: str | None) -> None:
    """The reason names the list that excludes the item, and its names."""
    found = limits.find_problem(kind, name)
    assert found == problem if problem is None else problem in str(found)


# Children.


def make_request(**fields: Any) -> ChildRequest:
    """Return a request."""
    return ChildRequest(**fields)


REQUESTS = st.builds(
    make_request,
    scope=TOOL_SCOPES,
    credential_scope=st.none() | CREDENTIAL_SCOPES,
    permission_mode=st.none() | st.sampled_from(MODES),
    profile=st.none() | st.sampled_from(sorted(PROFILES)),
    allowed_tools=TOOL_NAMES,
    blocked_tools=BLOCKED,
    agent_scope=TOOL_SCOPES,
    agent_mode=st.none() | st.sampled_from(MODES),
)


def child_bounds(bounds: Bounds, rights: ChildRights) -> Bounds:
    """Return the bounds of a child that has these rights, as if nothing but its own record limited it."""
    own = Link(rights.scope, rights.credential_scope, tuple(rights.blocked_tools))
    return bound_by((*bounds.links, own), narrower_mode(bounds.mode, rights.permission_mode))


@given(st.lists(LINKS, min_size=1, max_size=2), st.sampled_from(MODES), st.lists(REQUESTS, max_size=4))
def test_no_chain_of_children_widens(
    links: list[Link], mode: PermissionMode, requests: list[ChildRequest]
) -> None:
    """A child's own record allows nothing that its parent's bounds do not allow, whatever it requests."""
    bounds = bound_by(tuple(links), mode)
    for request in requests:
        try:
            rights = narrow_for_child(bounds, request)
        except ScopeWouldWiden:
            continue
        own = Restriction(rights.scope, rights.credential_scope, (*bounds.blocked, *rights.blocked_tools))
        assert items_of(own) <= items_of(bounds)
        assert MODES.index(rights.permission_mode) <= MODES.index(bounds.mode)
        bounds = child_bounds(bounds, rights)


def test_a_child_without_a_credential_scope_keeps_routes_only() -> None:
    """An omitted credential scope keeps the routes; connectors and all their credentials are left out."""
    bounds = replace(Bounds(), credentials=CredentialScope(routes=["cheap"]))
    none: list[str] = []
    expected = CredentialScope(
        routes=["cheap"], connectors=none, connector_credentials=none, mcp_credentials=none
    )
    assert narrow_for_child(bounds, ChildRequest()).credential_scope == expected
    explicit = ChildRequest(credential_scope=CredentialScope(connectors=["mail"]))
    assert narrow_for_child(bounds, explicit).credential_scope == CredentialScope(
        routes=["cheap"], connectors=["mail"]
    )


@pytest.mark.parametrize(
    ("bounds", "request_", "field"),
    [
        (Bounds(CapabilityScope(skills=["a"])), ChildRequest(CapabilityScope(skills=["b"])), "scope.skills"),
        (
            Bounds(credentials=CredentialScope(routes=["a"])),
            ChildRequest(credential_scope=CredentialScope(routes=["b"])),
            "credential_scope.routes",
        ),
        (Bounds(CapabilityScope(tools=["a"])), ChildRequest(allowed_tools=["b"]), "allowed_tools"),
        (Bounds(blocked=("bash",)), ChildRequest(CapabilityScope(tools=["bash"])), "scope.tools"),
        (Bounds(), ChildRequest(profile="plan", allowed_tools=["bash"]), "allowed_tools"),
        (Bounds(), ChildRequest(profile="default", allowed_tools=["spawn_agent"]), "allowed_tools"),
        (Bounds(), ChildRequest(permission_mode="bypassPermissions"), "permission_mode"),
    ],
)
def test_a_child_that_requests_more_is_refused(bounds: Bounds, request_: ChildRequest, field: str) -> None:
    """The refusal names the field that would widen the parent's bounds."""
    with pytest.raises(ScopeWouldWiden) as caught:
        narrow_for_child(bounds, request_)
    assert caught.value.field == f"$.params.{field}"


def test_allowed_tools_restrict() -> None:
    """Allowed tools leave exactly these, and a profile never gets a tool from them."""
    request = ChildRequest(profile="verification", allowed_tools=["bash"], blocked_tools=["read_file"])
    rights = narrow_for_child(Bounds(CapabilityScope(tools=["bash", "read_file"])), request)
    assert (rights.scope.tools, rights.profile, rights.blocked_tools) == (
        ["bash"],
        "verification",
        ["read_file"],
    )


MATRIX = {
    "bypassPermissions": MODES,
    "acceptEdits": ("acceptEdits", "default", "dontAsk", "plan"),
    "default": ("default", "dontAsk", "plan"),
    "dontAsk": ("dontAsk", "plan"),
    "plan": ("plan",),
}
"""By the mode of a parent, the modes that its child may have."""


@pytest.mark.parametrize("parent", MODES)
@pytest.mark.parametrize("requested", MODES)
def test_the_matrix_of_modes(parent: PermissionMode, requested: PermissionMode) -> None:
    """A child has exactly the modes of the matrix."""
    request = ChildRequest(permission_mode=requested)
    if requested in MATRIX[parent]:
        assert narrow_for_child(Bounds(mode=parent), request).permission_mode == requested
    else:
        with pytest.raises(ScopeWouldWiden, match="is wider than the parent's"):
            narrow_for_child(Bounds(mode=parent), request)
