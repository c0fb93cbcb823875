"""Routes: the ways to reach models, from the configuration and the store, and built in.

A stored route takes effect when its transaction is committed (``kheishd/build/stored.py``). A route of the
same id in the configuration comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.config.presets import find_base_url
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.kernel.route import chain_of, keys_of, make_stored_route
from kheishd.objects.node.trial import try_chain
from kheishd.objects.pages import page_of
from kheishd.objects.storable import require_storable
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import DEFAULT_ROUTE, DEFINITIONS, ROUTES
from protocol.errors.route import (
    RouteDefinedInFile,
    RouteInUse,
    RouteLimit,
    RouteNotFound,
    RouteRevisionConflict,
    RouteRevisionNotFound,
)
from protocol.errors.token import ScopeWouldWiden
from protocol.events.route import DefaultRouteChanged, RouteDeleted, RouteStored
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.route import MAX_ROUTE_BYTES, MAX_STORED_ROUTES
from protocol.objects import route as rows
from protocol.objects.route import (
    ChangedRoute,
    DefaultRoute,
    DeletedRoute,
    Route,
    RouteDefault,
    RouteDelete,
    RouteList,
    RouteListParams,
    RoutePut,
    RouteRef,
    RouteRollback,
    RouteTest,
    RouteTestParams,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.kernel.runtime import RouteSpec, Runtime
    from kheishd.store.environment import Transaction
    from kheishd.store.records import StoredRoute


def view_of(call: Call, spec: RouteSpec) -> Route:
    """Return a route as shown: its credential by reference, and whether it is ready."""
    runtime = call.runtime
    problem = runtime.models.problem(spec)
    return Route(
        route_id=spec.route_id,
        driver=spec.driver,
        model=spec.model,
        source="built_in" if spec.built_in else "stored" if spec.stored else "file",
        default=spec.route_id == runtime.default_route,
        preset=spec.preset,
        base_url=find_base_url(spec.driver, spec.preset, spec.base_url),
        auth_ref=spec.auth_ref,
        auth_refs=list(spec.auth_refs),
        auth_header=spec.auth_header,
        ca_file=spec.ca_file,
        fallback=list(spec.fallback),
        options=dict(spec.options),
        context_tokens=spec.context_tokens,
        prices=spec.prices,
        ready=problem is None,
        problem=problem,
        warnings=list(_find_warnings(runtime, spec)),
        cooldowns=call.services.cooldowns.list_current(spec.route_id, call.now_ms),
    )


def _find_warnings(runtime: Runtime, spec: RouteSpec) -> Iterator[str]:
    """Yield the problems of a route's keys, if it has several, and of the routes of its fallback."""
    if spec.auth_refs:
        yield from filter(None, (runtime.models.problem(key) for key in keys_of(spec)))
    usable = chain_of(runtime.routes, spec)
    for name in spec.fallback:
        route = runtime.routes.get(name)
        if route is None:
            yield f"the fallback '{name}' does not exist and is passed over"
        elif route not in usable:
            reason = "is a stand-in" if route.driver == "offline" else "has no prices in the same currency"
            yield f"the fallback '{name}' {reason} and is passed over"
        elif (problem := runtime.models.problem(route)) is not None:
            yield f"the fallback '{name}' is not ready: {problem}"


@query(rows.LIST)
def list_routes(call: Call, params: RouteListParams) -> RouteList:
    """List routes by id."""
    routes = call.runtime.routes
    names = (name for name in sorted(routes) if params.after is None or name > params.after)
    views = (((name,), view_of(call, routes[name])) for name in names)
    page, following = page_of(views, params.limit, lambda route: True)
    return RouteList(page, following)


@query(rows.GET)
def get_route(call: Call, params: RouteRef) -> Route:
    """Show a route, and the revisions of a stored one. Errors: RouteNotFound."""
    spec = _find_route(call.runtime, params.route_id)
    view = view_of(call, spec)
    if not spec.stored:
        return view
    with call.state.read() as store:
        record = store.get(ROUTES, spec.route_id)
    if record is None:
        return view
    return replace(view, revision=record.current.revision, revisions=[record.current, *record.former])


@control(rows.TEST)
async def check_route(call: Call, params: RouteTestParams) -> RouteTest:
    """Make one small call to a route with each key, and to each fallback; an answer ends its cooldown.

    The calls are in no session's account, so only a caller without restrictions makes them, and a route has
    one test at a time. Errors: ScopeWouldWiden, RouteNotFound.
    """
    _require_unrestricted(call)
    with call.services.runtimes.hold() as runtime:
        spec = _find_route(runtime, params.route_id)
        async with call.services.trials[spec.route_id]:
            result = await try_chain(runtime.models, runtime.routes, spec)
    for test in (result, *result.others):
        if any(check.name == "stream" and check.status == "ok" for check in test.checks):
            key = test.auth_ref or runtime.routes[test.route_id].auth_ref
            call.services.cooldowns.note_answer(test.route_id, key)
    return result


def _find_route(runtime: Runtime, route_id: str) -> RouteSpec:
    spec = runtime.routes.get(route_id)
    if spec is None:
        raise _refuse_unknown(route_id)
    return spec


def _refuse_unknown(route_id: str) -> RouteNotFound:
    return RouteNotFound(
        f"there is no route '{route_id}'; route.list names the routes", field="$.params.route_id"
    )


# Change.


def prepare_put(call: Call, params: RoutePut) -> RoutePut:
    """Return the params of a route that may be stored.

    Errors: ScopeWouldWiden, RouteDefinedInFile, RouteInvalid, InputTooLarge.
    """
    _require_unrestricted(call)
    _require_no_file(call, params.route_id, "choose another id, or edit the file and reload")
    require_storable(params.settings, MAX_ROUTE_BYTES, "route", "$.params.settings")
    make_stored_route(params.route_id, params.settings, call.runtime.routes)
    return params


@mutation(rows.PUT, prepare=prepare_put)
def put_route(tx: Transaction, call: Call, params: RoutePut) -> ChangedRoute:
    """Store a route. Settings that it has already make no new revision.

    Errors: RouteLimit, RouteRevisionConflict.
    """
    record = tx.get(ROUTES, params.route_id)
    _require_revision(record, params.expected_revision)
    if record is None and tx.count(ROUTES) >= MAX_STORED_ROUTES:
        raise RouteLimit(f"the store has {MAX_STORED_ROUTES} routes, the maximum; delete some")
    if record is not None and record.current.settings == params.settings:
        return _changed(record)
    revision = record.current.revision + 1 if record is not None else 1
    event = RouteStored(route_id=params.route_id, revision=revision, settings=params.settings)
    return _append(tx, call, event)


def prepare_rollback(call: Call, params: RouteRollback) -> RouteRollback:
    """Return the params if the route is not the file's. Errors: ScopeWouldWiden, RouteDefinedInFile."""
    _require_unrestricted(call)
    _require_no_file(call, params.route_id, "edit the file and reload")
    return params


@mutation(rows.ROLLBACK, prepare=prepare_rollback)
def roll_back_route(tx: Transaction, call: Call, params: RouteRollback) -> ChangedRoute:
    """Store the settings of an earlier revision as a new one.

    Errors: RouteNotFound, RouteRevisionConflict, RouteRevisionNotFound; RouteInvalid if they are invalid now.
    """
    record = tx.get(ROUTES, params.route_id)
    if record is None:
        raise _refuse_unknown(params.route_id)
    _require_revision(record, params.expected_revision)
    if params.revision is not None:
        revisions = [record.current, *record.former]
        target = next((earlier for earlier in revisions if earlier.revision == params.revision), None)
    else:
        target = record.former[0] if record.former else None
    if target is None:
        numbers = ", ".join(str(earlier.revision) for earlier in record.former) or "none"
        wanted = f"revision {params.revision}" if params.revision is not None else "earlier revision"
        raise RouteRevisionNotFound(
            f"the route '{params.route_id}' has no {wanted}; kept besides the current one: {numbers}",
            field="$.params.revision",
        )
    make_stored_route(params.route_id, target.settings, call.runtime.routes)
    event = RouteStored(
        route_id=params.route_id,
        revision=record.current.revision + 1,
        settings=target.settings,
        rollback_of=target.revision,
    )
    return _append(tx, call, event)


@mutation(rows.DELETE)
def delete_route(tx: Transaction, call: Call, params: RouteDelete) -> DeletedRoute:
    """Delete a stored route, also one that the file hides.

    A session that names it is not looked for, because there may be any number of them: its next message is
    refused by the name of the route, and never goes to another one.

    Errors: ScopeWouldWiden, RouteNotFound, RouteDefinedInFile, RouteInUse, RouteRevisionConflict.
    """
    _require_unrestricted(call)
    record = tx.get(ROUTES, params.route_id)
    if record is None:
        _require_no_file(call, params.route_id, "remove it from the file and reload")
        raise _refuse_unknown(params.route_id)
    _require_revision(record, params.expected_revision)
    spec = call.runtime.routes.get(params.route_id)
    if spec is None or spec.stored:
        users = _find_users(tx, call.runtime, params.route_id)
        if users:
            text = f"the route '{params.route_id}' is in use: {', '.join(users)}; change that first"
            raise RouteInUse(text, field="$.params.route_id")
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(RouteDeleted(route_id=params.route_id))
    writer.write()
    return DeletedRoute(params.route_id)


@mutation(rows.DEFAULT)
def set_default_route(tx: Transaction, call: Call, params: RouteDefault) -> DefaultRoute:
    """Set the default route, or use that of the configuration again.

    Errors: ScopeWouldWiden, RouteNotFound.
    """
    _require_unrestricted(call)
    if params.route_id is not None and tx.get(ROUTES, params.route_id) is None:
        spec = call.runtime.routes.get(params.route_id)
        if spec is None or spec.stored:
            raise _refuse_unknown(params.route_id)
    record = tx.get(DEFAULT_ROUTE, DAEMON_STREAM)
    if (record.route_id if record is not None else None) != params.route_id:
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
        writer.append(DefaultRouteChanged(route_id=params.route_id))
        writer.write()
    return DefaultRoute(
        route_id=params.route_id or call.runtime.config.default_route, stored=params.route_id is not None
    )


def _require_unrestricted(call: Call) -> None:
    """Require a caller that may use every agent. Errors: ScopeWouldWiden."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden("routes concern every agent and sender, and the token covers only some")


def _require_no_file(call: Call, route_id: str, remedy: str) -> None:
    """Reject a route that is in the configuration or built in. Errors: RouteDefinedInFile."""
    spec = call.runtime.routes.get(route_id)
    if spec is None or spec.stored:
        return
    field = "$.params.route_id"
    if spec.built_in:
        raise RouteDefinedInFile(f"the route '{route_id}' is built in; choose another id", field=field)
    path = call.control.config_path()
    text = f"the configuration {path} defines the route '{route_id}'; {remedy}"
    raise RouteDefinedInFile(text, field=field)


def _require_revision(record: StoredRoute | None, expected: int | None) -> None:
    """Require the current revision that the caller knows. Errors: RouteRevisionConflict."""
    current = record.current.revision if record is not None else 0
    if expected is not None and expected != current:
        text = f"revision {current} is current" if record is not None else "the store has no such route"
        raise RouteRevisionConflict(
            f"revision {expected} was expected, and {text}", field="$.params.expected_revision"
        )


def _find_users(tx: Transaction, runtime: Runtime, route_id: str) -> list[str]:
    """Return the uses of a route: as the default one, by agents, and by stored routes."""
    default = tx.get(DEFAULT_ROUTE, DAEMON_STREAM)
    users = ["it is the default route"] if default is not None and default.route_id == route_id else []
    stored = (record.definition for _, record in tx.scan(DEFINITIONS))
    names = {agent.name for agent in (*stored, *runtime.definitions.values()) if agent.route == route_id}
    users += [f"the agent '{name}' names it" for name in sorted(names)[:8]]
    return users + [
        f"it is a fallback of the route '{record.route_id}'"
        for _, record in tx.scan(ROUTES)
        if route_id in record.current.settings.fallback
    ]


def _append(tx: Transaction, call: Call, event: RouteStored) -> ChangedRoute:
    """Append a change of a route; return its new revision."""
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(event)
    record = writer.need(ROUTES, event.route_id)
    writer.write()
    return _changed(record)


def _changed(record: StoredRoute) -> ChangedRoute:
    current = record.current
    return ChangedRoute(
        route_id=record.route_id,
        revision=current.revision,
        settings=current.settings,
        updated_at_ms=current.updated_at_ms,
        rollback_of=current.rollback_of,
    )


HANDLERS = (
    list_routes,
    get_route,
    check_route,
    put_route,
    roll_back_route,
    delete_route,
    set_default_route,
)
