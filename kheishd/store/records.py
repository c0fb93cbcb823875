"""Stored structs that never cross the wire. MessagePack; fields are only ever added, with defaults."""

from msgspec import Struct

from protocol.objects.definition import Definition
from protocol.objects.mcp import McpServerSettings
from protocol.objects.permission import Rule
from protocol.objects.route import RouteRevision
from protocol.objects.secret import SecretKind
from protocol.objects.token import Token
from protocol.objects.workspace import TrustedRoot


class Binding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The session that a conversation (agent, sender) is bound to, since when, and by which event."""

    session_id: str
    bound_at_ms: int
    bound_cursor: int


class TokenRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token, the SHA-256 of its secret in hex, and the cursor of its creation."""

    token: Token
    digest: str
    created_cursor: int


class DaemonRules(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The permission rules of the whole daemon, and the cursor of their last change."""

    rules: list[Rule]
    updated_cursor: int


class TrustedRoots(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The roots that clients trust, oldest first, and the cursors of the first and the last change."""

    roots: list[TrustedRoot]
    created_cursor: int
    updated_cursor: int


class StoredDefinition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A definition in the store, and the cursors of its first event and of its last one."""

    definition: Definition
    created_cursor: int
    updated_cursor: int


class SecretRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A slot, without its value. ``revision`` counts its values; ``updated_by`` stored the current one."""

    slot_id: str
    kind: SecretKind
    revision: int
    created_at_ms: int
    created_cursor: int
    updated_at_ms: int
    updated_cursor: int
    updated_by: str


class StoredRoute(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route in the store: its current revision, earlier ones, newest first, and its cursors."""

    route_id: str
    current: RouteRevision
    former: list[RouteRevision] = []
    created_cursor: int
    updated_cursor: int


class StoredDefaultRoute(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The default route that a client has set (None: that of the configuration), and its last cursor."""

    route_id: str | None
    updated_cursor: int


class SearchTotals(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The messages of an agent in the index, and the terms in them; or the extent of the whole index.

    ``indexed_cursor`` is the cursor up to which the journal is indexed, in the row of the whole index only.
    """

    messages: int = 0
    terms: int = 0
    first_cursor: int = 0
    indexed_cursor: int = 0


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The digest of the params of a mutation with an idempotency key, and its result as JSON."""

    params_digest: bytes
    result: bytes
    at_ms: int


class StoredServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An MCP server in the store, and the cursors of its first event and of its last one."""

    name: str
    settings: McpServerSettings
    created_cursor: int
    updated_cursor: int
