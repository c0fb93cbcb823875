"""Routes: the ways to reach models, from the configuration and built in."""

from kheishd.config.presets import find_base_url
from kheishd.kernel.call import Call, control, query
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.objects.node.trial import try_route
from kheishd.objects.pages import page_of
from protocol.errors.route import RouteNotFound
from protocol.objects import route as rows
from protocol.objects.route import Route, RouteList, RouteListParams, RouteRef, RouteTest, RouteTestParams


def view_of(runtime: Runtime, spec: RouteSpec) -> Route:
    """Return a route as shown: its credential by reference, and whether it is ready."""
    problem = runtime.models.problem(spec)
    return Route(
        route_id=spec.route_id,
        driver=spec.driver,
        model=spec.model,
        source="built_in" if spec.built_in else "file",
        default=spec.route_id == runtime.config.default_route,
        preset=spec.preset,
        base_url=find_base_url(spec.driver, spec.preset, spec.base_url),
        auth_ref=spec.auth_ref,
        auth_header=spec.auth_header,
        ca_file=spec.ca_file,
        options=dict(spec.options),
        context_tokens=spec.context_tokens,
        prices=spec.prices,
        ready=problem is None,
        problem=problem,
    )


@query(rows.LIST)
def list_routes(call: Call, params: RouteListParams) -> RouteList:
    """List routes by id."""
    routes = call.runtime.routes
    names = (name for name in sorted(routes) if params.after is None or name > params.after)
    views = (((name,), view_of(call.runtime, routes[name])) for name in names)
    page, following = page_of(views, params.limit, lambda route: True)
    return RouteList(page, following)


@query(rows.GET)
def get_route(call: Call, params: RouteRef) -> Route:
    """Show a route. Errors: RouteNotFound."""
    return view_of(call.runtime, _find_route(call.runtime, params.route_id))


@control(rows.TEST)
async def check_route(call: Call, params: RouteTestParams) -> RouteTest:
    """Make one small call to a route. Errors: RouteNotFound."""
    with call.services.runtimes.hold() as runtime:
        return await try_route(runtime.models, _find_route(runtime, params.route_id))


def _find_route(runtime: Runtime, route_id: str) -> RouteSpec:
    spec = runtime.routes.get(route_id)
    if spec is None:
        raise RouteNotFound(
            f"there is no route '{route_id}'; route.list names the routes", field="$.params.route_id"
        )
    return spec


HANDLERS = (list_routes, get_route, check_route)
