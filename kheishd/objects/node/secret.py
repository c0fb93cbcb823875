"""Secret slots: store, list and delete them. Their values never leave the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from kheishd.core.text.vocabulary import find_collision
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.kernel.mcp import servers_of
from kheishd.kernel.secrets import list_redacted
from kheishd.objects.pages import page_of
from kheishd.store.tables import SECRETS
from protocol.errors.rpc import InvalidParams
from protocol.errors.secret import SecretInUse, SecretUnusable
from protocol.errors.token import ScopeWouldWiden
from protocol.limits.secret import MAX_SECRET_BYTES
from protocol.objects import secret as rows
from protocol.objects.secret import (
    DeletedSecret,
    RotatedKey,
    SecretDelete,
    SecretList,
    SecretListParams,
    SecretPut,
    SecretRotate,
    SecretSlot,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.records import SecretRecord


def find_users(runtime: Runtime, slot_id: str) -> list[str]:
    """Return the users of a slot, such as ``route main``."""
    reference = f"slot:{slot_id}"
    routes = [
        f"route {route.route_id}"
        for route in runtime.routes.values()
        if reference in (route.auth_ref, *route.auth_refs)
    ]
    specs = servers_of(runtime).values()
    servers = [f"MCP server {spec.name}" for spec in specs if reference in spec.references]
    hooks = [f"hook {hook.name}" for hook in runtime.lifecycle if hook.auth_ref == reference]
    return [*routes, *servers, *hooks]


def _view_of(call: Call, record: SecretRecord, *, redacted: bool, problem: str | None) -> SecretSlot:
    return SecretSlot(
        slot_id=record.slot_id,
        kind=record.kind,
        revision=record.revision,
        created_at_ms=record.created_at_ms,
        updated_at_ms=record.updated_at_ms,
        updated_by=record.updated_by,
        used_by=find_users(call.runtime, record.slot_id),
        redacted=redacted,
        problem=problem,
    )


def _require_unrestricted(call: Call) -> None:
    """Require a caller whose token covers every agent and sender. Errors: ScopeWouldWiden."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden("slots concern every agent and sender, and the token covers only some")


def require_redactable(call: Call, texts: Iterable[str], slot_id: str) -> None:
    """Require that texts can be redacted: that no name and no word of the daemon contains one.

    Errors: SecretUnusable.
    """
    with call.state.read() as store:
        slot_ids = [slot_id for (slot_id,), _ in store.scan(SECRETS)]
    runtime = call.runtime
    names = (slot_id, *slot_ids, *runtime.definitions, *runtime.routes, call.caller.principal)
    word = find_collision(texts, names)
    if word is not None:
        raise SecretUnusable(
            f"the value occurs in '{word}', which is a word of the daemon or a name: to redact it, the "
            "daemon would have to change its own data",
            field="$.params.value",
        )


def _kind_of(store: Snapshot, params: SecretPut) -> Literal["opaque", "api_key"]:
    """Return the kind of a value: unless it is given, an API key replaces an API key."""
    record = store.get(SECRETS, params.slot_id)
    is_key = record is not None and record.kind == "api_key"
    return params.kind or ("api_key" if is_key else "opaque")


def prepare_put(call: Call, params: SecretPut) -> SecretPut:
    """Validate a value, redact it from now on, and get the master key ready.

    Errors: InvalidParams, MasterKeyUnusable, ScopeWouldWiden, SecretUnreadable, SecretUnusable.
    """
    _require_unrestricted(call)
    value = params.value
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidParams("the value has half a surrogate pair", field="$.params.value") from None
    if size > MAX_SECRET_BYTES:
        raise InvalidParams(
            f"the value has {size} bytes; the limit is {MAX_SECRET_BYTES}", field="$.params.value"
        )
    secrets = call.services.secrets
    texts = list_redacted(value)
    with call.state.read() as store:
        kind = _kind_of(store, params)
    if kind == "api_key" and not (texts and value.strip().isascii() and value.strip().isprintable()):
        raise SecretUnusable(
            "an API key has at least 8 characters, all of them printable ASCII; any other text is 'opaque'",
            field="$.params.value",
        )
    require_redactable(call, texts, params.slot_id)
    if any(text in params.slot_id for text in secrets.values()):
        raise SecretUnusable("the slot's id contains the value of a secret", field="$.params.slot_id")
    secrets.learn(texts)
    secrets.prepare(params.slot_id, replaces_unreadable=params.replace_unreadable, is_trial=params.check)
    return params


@mutation(
    rows.PUT,
    prepare=prepare_put,
    mask=lambda call, params: replace(params, value=call.services.secrets.digest(params.value)),
)
def put_secret(tx: Transaction, call: Call, params: SecretPut) -> SecretSlot:
    """Store a value in a slot. Errors: SecretLimit, MasterKeyUnusable."""
    record = call.services.secrets.put_slot(
        tx,
        params.slot_id,
        params.value,
        _kind_of(tx, params),
        origin=origin_of(call),
        is_trial=params.check,
    )
    return _view_of(call, record, redacted=bool(list_redacted(params.value)), problem=None)


@query(rows.LIST)
def list_secrets(call: Call, params: SecretListParams) -> SecretList:
    """List the slots by id, without their values."""
    secrets = call.services.secrets
    unreadable = secrets.unreadable()
    with call.state.read() as store:
        after = None if params.after is None else (params.after,)
        views = (
            (
                key,
                _view_of(
                    call,
                    record,
                    redacted=bool(list_redacted(secrets.read(record.slot_id) or "")),
                    problem=unreadable.get(record.slot_id),
                ),
            )
            for key, record in store.scan(SECRETS, after=after)
        )
        page, following = page_of(views, params.limit, lambda slot: True)
    return SecretList(page, following)


@mutation(rows.DELETE)
def delete_secret(tx: Transaction, call: Call, params: SecretDelete) -> DeletedSecret:
    """Delete a slot that nothing uses. Errors: ScopeWouldWiden, SecretInUse, SecretNotFound."""
    _require_unrestricted(call)
    call.services.secrets.delete_slot(tx, params.slot_id, origin=origin_of(call))
    users = find_users(call.runtime, params.slot_id)
    if users:
        raise SecretInUse(
            f"the slot '{params.slot_id}' is used by {', '.join(users)}; change that first",
            field="$.params.slot_id",
        )
    return DeletedSecret(params.slot_id)


def prepare_rotate(call: Call, params: SecretRotate) -> str:
    """Make a new master key. Errors: MasterKeyUnusable, ScopeWouldWiden, SecretUnreadable."""
    _require_unrestricted(call)
    return call.services.secrets.prepare_rotation(is_trial=params.check)


@mutation(
    rows.ROTATE,
    prepare=prepare_rotate,
    on_commit=lambda call, result: call.services.secrets.finish_rotation(),
)
def rotate_key(tx: Transaction, call: Call, path: str) -> RotatedKey:
    """Seal all slots by the new master key. Errors: SecretUnreadable."""
    return RotatedKey(call.services.secrets.reseal(tx, origin=origin_of(call)), path)


HANDLERS = (put_secret, list_secrets, delete_secret, rotate_key)
