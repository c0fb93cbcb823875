"""Scopes: what a session may use by name, how scopes intersect, and the rights of child sessions. Pure.

A list of names is a set: null holds every name, an empty list none, ``mcp__*`` every tool of an MCP server.
So an intersection never holds a name that one of the two lists lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from kheishd.core.profiles import PROFILES
from protocol.errors.token import ScopeWouldWiden
from protocol.objects.permission import MODES
from protocol.objects.session import CapabilityScope, CredentialScope
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Collection

    from protocol.objects.permission import ItemKind, PermissionMode

S = TypeVar("S", CapabilityScope, CredentialScope)

MCP_PREFIX: Final = "mcp__"
EVERY_MCP_TOOL: Final = "mcp__*"
"""The name that stands for every tool of an MCP server."""

MAX_LISTED_NAMES: Final = 8

# Names.


def includes(names: Collection[str] | None, name: str) -> bool:
    """Whether a list of names holds a name."""
    if names is None or name in names:
        return True
    return EVERY_MCP_TOOL in names and name.startswith(MCP_PREFIX)


def intersect_names(names: list[str] | None, bound: list[str] | None) -> list[str] | None:
    """Return the names in both lists; null means every name, so the result never has an extra name."""
    if names is None or bound is None:
        return names if bound is None else bound
    allowed = frozenset(bound)
    common = [name for name in names if includes(allowed, name)]
    if EVERY_MCP_TOOL in names:
        present = frozenset(common)
        common += [name for name in bound if name not in present and includes(names, name)]
    return common


# Scopes.

EVERYTHING: Final = (CapabilityScope(), CredentialScope())
"""The scopes that exclude nothing."""


def intersect_scopes(scope: S, bound: S) -> S:
    """Return the scope that allows exactly what both scopes allow, in every field."""
    if bound in EVERYTHING:
        return scope
    kind = type(scope)
    fields = kind.__struct_fields__
    return kind(*(intersect_names(getattr(scope, name), getattr(bound, name)) for name in fields))


def inherit_scope(parent: S, requested: S, param: str = "scope") -> S:
    """Return a child's scope: the requested fields, else the parent's.

    Errors: ScopeWouldWiden if a requested field is wider than the parent's.
    """
    kind = type(parent)
    pairs = ((getattr(requested, name), getattr(parent, name)) for name in kind.__struct_fields__)
    child = kind(*(own if own is not None else inherited for own, inherited in pairs))
    return require_narrower(parent, child, param)


def require_narrower(current: S, requested: S, param: str = "scope") -> S:
    """Return the requested scope if it allows nothing that the current one does not.

    Errors: ScopeWouldWiden, naming the param, its field and the additional names.
    """
    for name in type(current).__struct_fields__:
        allowed, names = getattr(current, name), getattr(requested, name)
        if allowed is None:
            continue
        field = f"$.params.{param}.{name}"
        if names is None:
            raise ScopeWouldWiden(f"'{name}' is limited and cannot be opened again", field=field)
        current_names = frozenset(allowed)
        extra = sorted({extra for extra in names if not includes(current_names, extra)})
        if extra:
            raise ScopeWouldWiden(f"'{name}' did not allow {', '.join(extra)}", field=field)
    return requested


# Modes.


def is_wider(mode: PermissionMode, reference: PermissionMode) -> bool:
    """Whether a mode allows more than another one."""
    return MODES.index(mode) > MODES.index(reference)


def narrower_mode(mode: PermissionMode, bound: PermissionMode | None) -> PermissionMode:
    """Return the narrower of two modes; the first if there is no second."""
    return mode if bound is None else min(mode, bound, key=MODES.index)


def choose_mode(
    ceiling: PermissionMode, requested: PermissionMode | None, by_agent: PermissionMode | None = None
) -> PermissionMode:
    """Return a child's mode: the requested one, else the agent's own within the ceiling.

    Errors: ScopeWouldWiden if the requested mode is wider than the ceiling.
    """
    if requested is None:
        return narrower_mode(ceiling, by_agent)
    if is_wider(requested, ceiling):
        raise ScopeWouldWiden(
            f"the permission mode '{requested}' is wider than the parent's '{ceiling}'",
            field="$.params.permission_mode",
        )
    return requested


# Restrictions.


class Restriction(Value, frozen=True):
    """Restriction of what may be used: two scopes, and tools that are blocked whatever a scope allows."""

    scope: CapabilityScope = CapabilityScope()
    credentials: CredentialScope = CredentialScope()
    blocked: tuple[str, ...] = ()

    def find_problem(self, kind: ItemKind, name: str) -> str | None:
        """Return why an item may not be used; None if it may.

        A tool of an MCP server needs its server, and a connector's credential its connector.
        """
        scope, credentials = self.scope, self.credentials
        server = name.split("__")[1] if kind == "tool" and name.startswith(MCP_PREFIX) else None
        connector = name.partition(":")[0]
        match kind:
            case "tool":
                if includes(self.blocked, name):
                    return f"it blocks '{name}'"
                lists = [("tools", scope.tools, name)]
                if server is not None:
                    lists += [("mcp", scope.mcp, server), ("mcp_tools", scope.mcp_tools, name)]
            case "skill":
                lists = [("skills", scope.skills, name)]
            case "member":
                lists = [("members", scope.members, name)]
            case "mcp_server":
                lists = [("mcp", scope.mcp, name)]
            case "route":
                lists = [("routes", credentials.routes, name)]
            case "connector":
                lists = [("connectors", credentials.connectors, name)]
            case "connector_credential":
                lists = [
                    ("connectors", credentials.connectors, connector),
                    ("connector_credentials", credentials.connector_credentials, name),
                    ("credentials", scope.credentials, name),
                ]
            case "mcp_credential":
                lists = [
                    ("mcp_credentials", credentials.mcp_credentials, name),
                    ("credentials", scope.credentials, name),
                ]
        for field, names, needed in lists:
            if not includes(names, needed):
                listed = f"only {', '.join(names[:MAX_LISTED_NAMES])}" if names else "none"
                listed += " …" if names and len(names) > MAX_LISTED_NAMES else ""
                return f"its {field} do not include '{needed}': it has {listed}"
        return None

    def allows_tool(self, name: str) -> bool:
        """Whether a tool may be called."""
        return self.find_problem("tool", name) is None

    def allows_skill(self, name: str) -> bool:
        """Whether a skill may be used."""
        return self.find_problem("skill", name) is None

    def allows_route(self, name: str) -> bool:
        """Whether a route's model may be called."""
        return self.find_problem("route", name) is None


class Link(Restriction, frozen=True):
    """One cause that limits a session: its ``kind``, its name, and the session it belongs to."""

    kind: str = ""
    name: str = ""
    session_id: str = ""


class Bounds(Restriction, frozen=True):
    """What a session may do: the intersection of all ``links``, and the mode.

    ``depth`` is the number of sessions above: 0 for a root.
    """

    mode: PermissionMode = "default"
    depth: int = 0
    links: tuple[Link, ...] = ()


def bound_by(links: tuple[Link, ...], mode: PermissionMode, depth: int = 0) -> Bounds:
    """Return the bounds that some links form."""
    if not links:
        return Bounds(mode=mode, depth=depth)
    scope, credentials, blocked = links[0].scope, links[0].credentials, links[0].blocked
    for link in links[1:]:
        scope = intersect_scopes(scope, link.scope)
        credentials = intersect_scopes(credentials, link.credentials)
        if link.blocked:
            blocked = tuple(dict.fromkeys((*blocked, *link.blocked)))
    if scope.credentials is not None:
        older = CredentialScope(connector_credentials=scope.credentials, mcp_credentials=scope.credentials)
        credentials = intersect_scopes(credentials, older)
    return Bounds(scope, credentials, blocked, mode, depth, links)


# Children.


class ChildRequest(Value, frozen=True):
    """The rights that a new child session is requested to have; the defaults request the parent's.

    ``agent_scope`` and ``agent_mode`` are those of the child's definition. ``allowed_tools`` are the only
    tools of the child; they never add to those of its profile.
    """

    scope: CapabilityScope = CapabilityScope()
    credential_scope: CredentialScope | None = None
    permission_mode: PermissionMode | None = None
    profile: str | None = None
    allowed_tools: list[str] | None = None
    blocked_tools: list[str] = []
    agent_scope: CapabilityScope = CapabilityScope()
    agent_mode: PermissionMode | None = None


class ChildRights(Value, frozen=True):
    """The rights of a new child session, by the names of its properties."""

    scope: CapabilityScope
    credential_scope: CredentialScope
    permission_mode: PermissionMode
    profile: str | None
    blocked_tools: list[str]


def narrow_for_child(bounds: Bounds, request: ChildRequest) -> ChildRights:
    """Return the rights of a new child: the requested ones, none of them beyond the parent's bounds.

    Without a requested credential scope, a child keeps the routes and gets no connector, no connector's
    credential and no MCP server's credential.
    Errors: ScopeWouldWiden, naming the field.
    """
    scope = inherit_scope(bounds.scope, request.scope)
    for field, names in (("scope.tools", request.scope.tools), ("allowed_tools", request.allowed_tools)):
        for name in names or ():
            problem = bounds.find_problem("tool", name)
            if problem is not None:
                text = f"the parent may not use the tool '{name}': {problem}"
                raise ScopeWouldWiden(text, field=f"$.params.{field}")
    if request.allowed_tools is not None:
        profile = PROFILES.get(request.profile or "")
        for name in request.allowed_tools if profile is not None else ():
            if profile is not None and (not includes(profile.tools, name) or includes(profile.denied, name)):
                text = f"the profile '{profile.name}' does not have the tool '{name}'"
                raise ScopeWouldWiden(text, field="$.params.allowed_tools")
        scope = intersect_scopes(scope, CapabilityScope(tools=request.allowed_tools))
    if request.credential_scope is None:
        credentials = CredentialScope(
            routes=bounds.credentials.routes, connectors=[], connector_credentials=[], mcp_credentials=[]
        )
    else:
        credentials = inherit_scope(bounds.credentials, request.credential_scope, "credential_scope")
    return ChildRights(
        scope=intersect_scopes(scope, request.agent_scope),
        credential_scope=credentials,
        permission_mode=choose_mode(bounds.mode, request.permission_mode, request.agent_mode),
        profile=request.profile,
        blocked_tools=request.blocked_tools,
    )
