"""The values that a run pins when it is accepted, from the request, the session, the agent and the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kheishd.core.profiles import PROFILES
from kheishd.core.run.budget import intersect_budgets, pin_budget
from kheishd.core.session import leave_plan_mode
from kheishd.kernel.route import chain_of, pin_route
from kheishd.objects.talk.address import find_route
from kheishd.objects.talk.bounds import bounds_of
from kheishd.objects.talk.lineage import agent_of
from kheishd.objects.talk.workspace import workspace_of
from kheishd.store.blobs import blob_name, put_chunk
from kheishd.store.tables import BLOBS, SESSIONS
from protocol.errors.route import RouteForbidden, RouteNotReady
from protocol.errors.rpc import InvalidParams
from protocol.objects.run import Pinned, PinnedRoute
from protocol.structs import fields_of

if TYPE_CHECKING:
    from kheishd.core.scope import Bounds
    from kheishd.kernel.runtime import RouteSpec, Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.budget import Budget, PinnedBudget
    from protocol.contract import BoundContract
    from protocol.objects.definition import Definition
    from protocol.objects.run import SendParams
    from protocol.objects.session import Session


def pin_run(
    tx: Transaction,
    runtime: Runtime,
    session: Session,
    speaker: Definition,
    params: SendParams,
    *,
    workspace: str | None = None,
    contract: BoundContract | None = None,
) -> Pinned:
    """Return the values that a new run uses, and store the speaker's instructions.

    A guest speaks for itself and has no tools.

    Errors: RouteNotFound, RouteForbidden, RouteNotReady, WorkspaceForbidden, InvalidParams.
    """
    bounds, directory, route = require_runnable(tx, runtime, session, speaker, params, workspace)
    instructions = instructions_of(tx, session, speaker)
    digest = speaker.digest if instructions == speaker.instructions else blob_name(instructions.encode())
    put_chunk(tx, digest, 0, instructions.encode())
    is_guest = speaker.name != session.agent
    pinned_route = pin_route(route, choose_model(route, params, session.route, session.model, speaker))
    return Pinned(
        **fields_of(PinnedRoute, pinned_route),
        fallbacks=[
            pin_route(fallback)
            for fallback in (chain_of(runtime.routes, route) if route.fallback else ())
            if bounds.find_problem("route", fallback.route_id) is None
        ],
        instructions_digest=digest,
        section_digests=[] if is_guest else _pin_sections(tx, session),
        tools=[] if is_guest else bounds.scope.tools,
        workspace=directory,
        permission_mode=bounds.mode,
        max_turns=min(filter(None, (speaker.max_turns, runtime.config.runs.max_turns)), default=0),
        generation=runtime.generation,
        debug=params.debug or runtime.config.debug.capture,
        output_contract=contract or session.output_contract,
        requirements=params.completion_requirements,
        max_continuations=runtime.config.runs.max_continuations,
        budget=_pin_budget(runtime, params.budget, speaker, route),
        is_accounted=session.budget is not None,
    )


def require_runnable(
    store: Snapshot,
    runtime: Runtime,
    session: Session,
    speaker: Definition,
    params: SendParams,
    workspace: str | None = None,
) -> tuple[Bounds, str, RouteSpec]:
    """Return the bounds, the workspace and the route of a new run, if one can be accepted.

    The request comes before the session, the session before the agent.
    Errors: RouteNotFound, RouteForbidden, RouteNotReady, WorkspaceForbidden.
    """
    # Plan mode can end within a run, so the bounds are those that apply after it.
    bounds = bounds_of(store, runtime, leave_plan_mode(session), speaker)
    directory = workspace_of(store, runtime, session, workspace, speaker)
    route = find_route(runtime, params.route, session.route, speaker.route)
    field = "$.params.route" if params.route is not None else None
    forbidden = bounds.find_problem("route", route.route_id)
    if forbidden is not None:
        text = f"the session may not use the route '{route.route_id}': {forbidden}"
        raise RouteForbidden(text, field=field)
    problem = runtime.models.problem(route)
    if problem is not None:
        raise RouteNotReady(f"the route '{route.route_id}' is not ready: {problem}", field=field)
    return bounds, directory, route


def choose_model(
    route: RouteSpec,
    params: SendParams,
    session_route: str | None,
    session_model: str | None,
    speaker: Definition,
) -> str:
    """Return the model of a new run on a route.

    A model belongs to the route that was named with it: a request that names another route gets that route's
    model unless it names one too, and so does a session.
    """
    if params.route is not None:
        return params.model or route.model
    return params.model or session_model or (speaker.model if session_route is None else None) or route.model


def instructions_of(store: Snapshot, session: Session, speaker: Definition) -> str:
    """Return a speaker's instructions, with those of its own that a spawned agent was given for its task.

    A fork of the agent's session has them, too, unless it works as another definition.
    """
    agent = None
    if session.parent_session_id is not None and speaker.name == session.agent:
        agent = agent_of(store, session)
    if agent is None or agent.prompt_digest is None:
        return speaker.instructions
    if store.need(SESSIONS, agent.agent_id).agent != speaker.name:
        return speaker.instructions
    prompt = store.need(BLOBS, agent.prompt_digest, 0).decode()
    return prompt if agent.prompt_mode == "replace" else f"{speaker.instructions}\n\n{prompt}"


def _pin_sections(tx: Transaction, session: Session) -> list[str]:
    """Store the sections after the agent's instructions, the soul of its persona first; return their digests.

    The soul is stored since its persona has it.
    """
    digests = [session.persona.soul_sha256] if session.persona is not None else []
    profile = PROFILES.get(session.profile or "")
    if profile is not None and profile.prompt:
        content = profile.prompt.encode()
        digests.append(blob_name(content))
        put_chunk(tx, digests[-1], 0, content)
    return digests


def _pin_budget(
    runtime: Runtime, requested: Budget | None, speaker: Definition, route: RouteSpec
) -> PinnedBudget | None:
    """Return the lowest of the daemon's, the agent's and the request's limits.

    Errors: InvalidParams where the request limits the cost and the route states no prices.
    """
    if requested is not None and requested.max_cost and route.prices is None:
        raise InvalidParams(
            f"the route '{route.route_id}' states no prices, so the cost of a run cannot be limited",
            field="$.params.budget.max_cost",
        )
    budget = intersect_budgets((runtime.config.runs.budget, speaker.budget, requested))
    if budget is not None and route.prices is None:
        budget = intersect_budgets([msgspec.structs.replace(budget, max_cost=0.0)])
    return pin_budget(budget)
