"""Routes: what models can be reached by, from the configuration and built in."""

from kheishd.kernel.call import Call, query
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.objects.pages import page_of
from protocol.errors.route import RouteNotFound
from protocol.objects import route as rows
from protocol.objects.route import Route, RouteList, RouteListParams, RouteRef


def view_of(runtime: Runtime, spec: RouteSpec) -> Route:
    """A route as it is shown: its credential by reference, and whether it could be used now."""
    problem = runtime.models.problem(spec)
    return Route(
        route_id=spec.route_id,
        driver=spec.driver,
        model=spec.model,
        source="built_in" if spec.built_in else "file",
        default=spec.route_id == runtime.config.default_route,
        base_url=spec.base_url,
        auth_ref=spec.auth_ref,
        options=dict(spec.options),
        context_tokens=spec.context_tokens,
        prices=spec.prices,
        ready=problem is None,
        problem=problem,
    )


@query(rows.LIST)
def list_routes(call: Call, params: RouteListParams) -> RouteList:
    """The routes there are, by id."""
    known = call.runtime.routes
    names = (name for name in sorted(known) if params.after is None or name > params.after)
    found = (((name,), view_of(call.runtime, known[name])) for name in names)
    chosen, following = page_of(found, params.limit, lambda route: True)
    return RouteList(chosen, following)


@query(rows.GET)
def get_route(call: Call, params: RouteRef) -> Route:
    """One route. Errors: RouteNotFound."""
    spec = call.runtime.routes.get(params.route_id)
    if spec is None:
        raise RouteNotFound(
            f"there is no route '{params.route_id}'; route.list names those there are",
            field="$.params.route_id",
        )
    return view_of(call.runtime, spec)


HANDLERS = (list_routes, get_route)
