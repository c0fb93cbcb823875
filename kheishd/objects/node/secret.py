"""Secret slots: store, list and delete them. Their values never leave the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec.structs import replace

from kheishd.core.fallback import list_candidates
from kheishd.core.text.identities import find_identities
from kheishd.core.text.vocabulary import find_collision
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.kernel.mcp import ServerSpec, servers_of
from kheishd.kernel.secrets import list_redacted
from kheishd.objects.pages import page_of
from kheishd.records.run import read_pinned
from kheishd.store.tables import (
    AGENTS_BY_NAME,
    AGENTS_BY_PATH,
    APPROVALS,
    APPROVALS_WAITING,
    BUS_LISTENERS,
    CONVERSATIONS,
    CRONS,
    DEFINITIONS,
    EVENT_WAITS,
    MCP_SERVERS,
    PERMISSIONS,
    PERSONAS,
    QUESTIONS,
    QUESTIONS_WAITING,
    ROUTES,
    RUNS,
    RUNS_READY,
    SECRETS,
    SESSIONS,
    TOKENS,
    TRIGGERS,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.secret import SecretInUse, SecretUnusable
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import ID_SHAPED
from protocol.limits.secret import MAX_SECRET_BYTES, MAX_SECRET_TEXTS
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
    from collections.abc import Iterable, Iterator

    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.records import SecretRecord
    from kheishd.store.table import Table


NAMES: Final[tuple[Table[Any], ...]] = (
    SECRETS,
    CONVERSATIONS,
    SESSIONS,
    AGENTS_BY_NAME,
    AGENTS_BY_PATH,
    PERSONAS,
    CRONS,
)
"""The tables whose keys are names that a client or an agent has chosen."""

NAMING: Final[tuple[Table[Any], ...]] = (TOKENS, CRONS, TRIGGERS, PERMISSIONS)
"""The tables whose records hold names of others: senders, agents, tools, sources."""


def find_users(runtime: Runtime, slot_id: str, store: Snapshot | None = None) -> list[str]:
    """Return the users of a slot, such as ``route main``.

    With a ``store``, also those that it holds and the runtime does not have yet, and open runs.
    """
    reference = f"slot:{slot_id}"
    routes = [
        f"route {route.route_id}"
        for route in runtime.routes.values()
        if reference in (route.auth_ref, *route.auth_refs)
    ]
    specs = servers_of(runtime).values()
    servers = [f"MCP server {spec.name}" for spec in specs if reference in spec.references]
    hooks = [f"hook {hook.name}" for hook in runtime.lifecycle if hook.auth_ref == reference]
    stored = [] if store is None else _find_stored_users(store, reference)
    return list(dict.fromkeys((*routes, *servers, *hooks, *stored)))


def _find_stored_users(store: Snapshot, reference: str) -> Iterator[str]:
    """Yield the users in the store, and the runs that are queued, running or waiting."""
    for (route_id,), row in store.scan(ROUTES):
        if reference in (row.current.settings.auth_ref, *row.current.settings.auth_refs):
            yield f"route {route_id}"
    for (name,), server in store.scan(MCP_SERVERS):
        if reference in ServerSpec(name, server.settings).references:
            yield f"MCP server {name}"
    for (agent,), stored in store.scan(DEFINITIONS):
        for name, settings in stored.definition.mcp_servers.items():
            if reference in ServerSpec(name, settings).references:
                yield f"MCP server {name} of the agent {agent}"
    needle = msgspec.json.encode(reference)
    for session_id in dict.fromkeys(_find_busy_sessions(store)):
        for run_id in store.need(SESSIONS, session_id).open_runs:
            run = store.need(RUNS, run_id)
            entry = store.entry(run.session_id, run.accepted_cursor)
            # Ten thousand runs may wait: few of them are worth decoding.
            if entry is not None and needle not in entry[1]:
                continue
            if any(candidate.auth_ref == reference for candidate in list_candidates(read_pinned(store, run))):
                yield f"run {run_id}"


def _find_busy_sessions(store: Snapshot) -> Iterator[str]:
    """Yield the sessions whose first open run is ready, or waits for a person or an event."""
    for _, run_id in store.scan(RUNS_READY):
        yield store.need(RUNS, run_id).session_id
    for _, approval_id in store.scan(APPROVALS_WAITING):
        yield store.need(APPROVALS, approval_id).session_id
    for _, question_id in store.scan(QUESTIONS_WAITING):
        yield store.need(QUESTIONS, question_id).session_id
    for (_, _, listener_id), _ in store.scan(BUS_LISTENERS):
        wait = store.get(EVENT_WAITS, listener_id)
        if wait is not None:
            yield wait.session_id


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
    runtime = call.runtime
    names = {slot_id, call.caller.principal, *runtime.definitions, *runtime.routes, *servers_of(runtime)}
    names.update(tool.name for tool in runtime.hooks.tools())
    with call.state.read() as store:
        for table in NAMES:
            for key, _ in store.scan_packed(table):
                names.update(part for part in table.unpack(key) if isinstance(part, str))
        for table in NAMING:
            for _, record in store.scan(table):
                names.update(text for _, text in find_identities(table.value, record))
    word = find_collision(texts, [name for name in names if not ID_SHAPED.fullmatch(name)])
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

    Errors: InvalidParams, MasterKeyUnusable, ScopeWouldWiden, SecretLimit, SecretUnreadable,
    SecretUnusable.
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
    if len(texts) > MAX_SECRET_TEXTS:
        raise SecretUnusable(
            f"the value is JSON with more than {MAX_SECRET_TEXTS} credentials, each of which is searched in "
            "all texts; store the needed ones in slots of their own",
            field="$.params.value",
        )
    secrets.require_room(params.slot_id, texts)
    require_redactable(call, texts, params.slot_id)
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
    users = find_users(call.runtime, params.slot_id, tx)
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
    on_end=lambda call: call.services.secrets.finish_rotation(),
)
def rotate_key(tx: Transaction, call: Call, path: str) -> RotatedKey:
    """Seal all slots by the new master key. Errors: SecretUnreadable."""
    return RotatedKey(call.services.secrets.reseal(tx, origin=origin_of(call)), path)


HANDLERS = (put_secret, list_secrets, delete_secret, rotate_key)
