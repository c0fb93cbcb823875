"""A secret: a value in an encrypted slot. It goes in, and never comes out: the daemon alone uses it."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.secret import (
    MasterKeyUnusable,
    SecretInUse,
    SecretLimit,
    SecretNotFound,
    SecretUnreadable,
    SecretUnusable,
)
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.limits.secret import MAX_SECRET_BYTES
from protocol.rpc.method import Method, Mutation, Page

SLOT_ID_PATTERN = r"[a-z0-9][a-z0-9._-]{0,127}"

SlotId = Annotated[
    str, Meta(pattern=rf"^{SLOT_ID_PATTERN}$(?!\n)", description="1-128 characters of a-z 0-9 . _ -")
]

SecretKind = Literal["opaque", "api_key", "oauth"]
"""``opaque``: any text. ``api_key``: a text that an HTTP header can hold. ``oauth``: tokens that the daemon
itself stores and renews.
"""


class SecretSlot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A slot as shown: everything but its value.

    ``revision`` counts the values that it has had. ``used_by`` names the users of ``slot:<slot_id>``, such as
    ``route main``. ``redacted``: the value is replaced wherever the daemon would write or send it; short
    values are not. ``problem``: why the value cannot be read, with its remedy.
    """

    slot_id: str
    kind: SecretKind
    revision: int
    created_at_ms: int
    updated_at_ms: int
    updated_by: str
    used_by: list[str] = []
    redacted: bool = True
    problem: str | None = None


class SecretList(Struct, frozen=True):
    """A page of slots, by id."""

    secrets: list[SecretSlot]
    next: str | None


class SecretPut(Mutation, frozen=True, kw_only=True):
    """Params of ``secret.put``.

    ``kind``: null keeps the kind of an API key's slot; any other becomes ``opaque``.
    ``replace_unreadable``: store the value although this slot or another one cannot be read with the current
    master key. Without any master key, a new one is made then.
    """

    slot_id: SlotId
    value: Annotated[str, Meta(min_length=1, max_length=MAX_SECRET_BYTES)]
    kind: Literal["opaque", "api_key"] | None = None
    replace_unreadable: bool = False


class SecretListParams(Page, frozen=True, kw_only=True):
    """Params of ``secret.list``."""


class SecretDelete(Mutation, frozen=True, kw_only=True):
    """Params of ``secret.delete``."""

    slot_id: SlotId


class DeletedSecret(Struct, frozen=True):
    """The id of a slot that was deleted."""

    slot_id: str


class SecretRotate(Mutation, frozen=True, kw_only=True):
    """Params of ``secret.rotate``."""


class RotatedKey(Struct, frozen=True):
    """A rotation: the number of slots that the new key seals, and the file of the key."""

    slots: int
    path: str


PUT = Method(
    "secret.put",
    "mutation",
    SecretPut,
    SecretSlot,
    "Store a value in a slot, encrypted; what refers to the slot uses it from its next call on.",
    scope="admin",
    errors=(
        MasterKeyUnusable,
        ScopeWouldWiden,
        SecretLimit,
        SecretUnreadable,
        SecretUnusable,
        StorageFull,
    ),
)
LIST = Method(
    "secret.list",
    "query",
    SecretListParams,
    SecretList,
    "List the slots, by id, without their values.",
    scope="admin",
)
DELETE = Method(
    "secret.delete",
    "mutation",
    SecretDelete,
    DeletedSecret,
    "Delete a slot and its value.",
    scope="admin",
    errors=(ScopeWouldWiden, SecretInUse, SecretNotFound, StorageFull),
)

ROTATE = Method(
    "secret.rotate",
    "mutation",
    SecretRotate,
    RotatedKey,
    "Replace the master key and seal every slot again, in one transaction.",
    scope="admin",
    errors=(MasterKeyUnusable, ScopeWouldWiden, SecretUnreadable, StorageFull),
)

METHODS = (PUT, LIST, DELETE, ROTATE)
