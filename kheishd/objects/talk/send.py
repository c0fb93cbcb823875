"""Sending: an input becomes a run, with everything the run uses pinned. Shared by every ``send``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kheishd.core.planning import unplanned
from kheishd.core.run.budget import narrowest, pin_budget
from kheishd.core.session import both
from kheishd.objects.talk.bounds import Bounds, bounds_of
from kheishd.objects.talk.contract import Schema, bound_input, bound_to, schema_of
from kheishd.objects.talk.run import given_by, settled
from kheishd.objects.talk.workspace import asked, workspace_of
from kheishd.store.blobs import put_chunk
from protocol import ids
from protocol.errors.conversation import SenderInvalid
from protocol.errors.definition import AgentNotFound
from protocol.errors.route import RouteNotFound, RouteNotReady
from protocol.errors.rpc import InvalidParams, Overloaded
from protocol.errors.session import InputTooLarge, QueueFull, SessionAlreadyEnded
from protocol.events.run import InputReceived, RunAccepted
from protocol.limits.names import MAX_METADATA_BYTES, MAX_SENDER_BYTES
from protocol.limits.rpc import MAX_NESTING
from protocol.limits.session import MAX_INPUT_BYTES, MAX_QUEUED_RUNS
from protocol.objects.journal import Filter
from protocol.objects.run import Pinned, SendParams, SendResult
from protocol.rpc.wire import is_nested_too_deep
from protocol.transcript import InputItem, Text

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import RouteSpec, Runtime
    from kheishd.records.writer import SessionWriter
    from kheishd.store.environment import Transaction
    from protocol.budget import PinnedBudget
    from protocol.contract import BoundContract
    from protocol.objects.definition import Definition
    from protocol.objects.session import Session


@dataclass(frozen=True, slots=True)
class Sending:
    """An input made ready: checked, and with the ids it will have."""

    params: SendParams
    items: list[InputItem]
    sender: str | None
    input_id: str
    run_id: str
    session_id: str
    guest: Definition | None = None
    workspace: str | None = None
    schema: Schema | None = None


def make_ready(
    call: Call,
    params: SendParams,
    *,
    sender: str | None,
    guest: str | None = None,
    workspace: str | None = None,
) -> Sending:
    """Check an input and give it its ids; nothing is written yet.

    Errors: InvalidParams, InputTooLarge, ContractInvalid, SenderInvalid, SenderForbidden, AgentNotFound (of
    the guest), WorkspaceForbidden, ScopeMissing (to say what is captured).
    """
    if sender is not None:
        valid_sender(sender)
    call.caller.need_sender(sender)
    if params.debug is not None:
        call.caller.need("operate")
    contract = params.output_contract
    schema = schema_of(contract.schema, "$.params.output_contract.schema") if contract is not None else None
    room = MAX_INPUT_BYTES - len(schema.content) if schema is not None else MAX_INPUT_BYTES
    return Sending(
        params=params,
        items=input_items(params, room),
        sender=sender,
        input_id=call.state.new_id(ids.INPUT),
        run_id=call.state.new_id(ids.RUN),
        session_id=call.state.new_id(ids.SESSION),
        guest=find_definition(call, guest, "guest") if guest is not None else None,
        workspace=asked(call, workspace) if workspace is not None else None,
        schema=schema,
    )


def valid_sender(sender: str) -> None:
    """Errors: SenderInvalid unless it is 1-128 bytes of printable text, compared exactly later."""
    if not 1 <= len(sender.encode()) <= MAX_SENDER_BYTES or not sender.isprintable():
        raise SenderInvalid(field="$.params.sender")


def input_items(params: SendParams, max_bytes: int = MAX_INPUT_BYTES) -> list[InputItem]:
    """What was said, as items, and its metadata looked at. A contract that comes along takes of its room.

    Errors: InvalidParams, InputTooLarge, as for ``said_items``.
    """
    items = said_items(params.content, params.input_items, max_bytes)
    require_storable(params.metadata, MAX_METADATA_BYTES, "metadata", "$.params.metadata")
    return items


def said_items(
    content: str | None, input_items: list[InputItem] | None, max_bytes: int = MAX_INPUT_BYTES
) -> list[InputItem]:
    """What was said, as items.

    Errors: InvalidParams unless exactly one of ``content`` and ``input_items`` holds something;
    InputTooLarge.
    """
    if content and input_items:
        raise InvalidParams("give either 'content' or 'input_items', not both", field="$.params.content")
    items = input_items or ([Text(content)] if content else [])
    if not items or any(isinstance(item, Text) and not item.text for item in items):
        raise InvalidParams("there is nothing to send: 'content' is empty", field="$.params.content")
    if not all(isinstance(item, Text) for item in items):
        raise InvalidParams(
            "this version takes only items of kind 'text'; put the file's text there",
            field="$.params.input_items",
        )
    require_storable(items, max_bytes, "input", "$.params.content")
    return list(items)


def require_storable(value: object, limit: int, name: str, field: str) -> None:
    """See that a value can be kept.

    Errors: InputTooLarge if it takes more than ``limit`` bytes as JSON; InvalidParams if it nests too
    deep, or holds a whole number that JSON can say and a record cannot hold.
    """
    try:
        encoded = msgspec.json.encode(value)
        msgspec.msgpack.encode(value)
    except OverflowError:
        raise InvalidParams(f"the {name} holds a whole number of more than 64 bits", field=field) from None
    except RecursionError:
        raise InvalidParams(f"the {name} is nested deeper than {MAX_NESTING} levels", field=field) from None
    if len(encoded) > limit:
        text = f"the {name} takes {len(encoded)} bytes as JSON; the limit is {limit}"
        raise InputTooLarge(text, field=field)
    if is_nested_too_deep(encoded):
        raise InvalidParams(f"the {name} is nested deeper than {MAX_NESTING} levels", field=field)


def find_definition(call: Call, name: str | None, param: str = "agent") -> Definition:
    """The agent that is meant; the configured default one without a name.

    Errors: AgentForbidden, AgentNotFound.
    """
    name = name if name is not None else call.runtime.config.default_agent
    call.caller.need_agent(name)
    definition = call.runtime.definitions.get(name)
    if definition is None:
        covered = (name for name in call.runtime.definitions if call.caller.covers_agent(name))
        known = ", ".join(sorted(covered)[:8]) or "none"
        raise AgentNotFound(
            f"there is no agent '{name}'; those there are: {known}", field=f"$.params.{param}"
        )
    return definition


def find_route(runtime: Runtime, *names: str | None) -> RouteSpec:
    """The first route named; the default one where no name is given.

    Errors: RouteNotFound for a name that is given and is not there.
    """
    name = next((name for name in names if name is not None), runtime.config.default_route)
    route = runtime.routes.get(name)
    if route is None:
        known = ", ".join(sorted(runtime.routes))
        raise RouteNotFound(f"there is no route '{name}'; those there are: {known}", field="$.params.route")
    return route


def accept(
    tx: Transaction, call: Call, sending: Sending, fold: SessionWriter, definition: Definition
) -> SendResult:
    """Append the input and the acceptance of its run to a session; the caller writes the fold.

    Errors: SessionAlreadyEnded, QueueFull, RouteNotFound, RouteNotReady, WorkspaceForbidden,
    InputContractViolated.
    """
    session = fold.session
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session.session_id} was ended and takes no more input")
    if len(session.open_runs) > MAX_QUEUED_RUNS:
        raise QueueFull(
            f"the session has {MAX_QUEUED_RUNS} runs waiting; wait for some to end or cancel them"
        )
    pinned = pinned_for(tx, call, sending, session, definition)
    items = bound_input(tx, session, sending.items)
    if sending.schema is not None:
        sending.schema.keep(tx)
    fold.append(
        InputReceived(
            input_id=sending.input_id,
            items=items,
            sender=sending.sender,
            guest=sending.guest.name if sending.guest else None,
            metadata=sending.params.metadata,
        ),
        run_id=sending.run_id,
    )
    accepted = fold.append(
        RunAccepted(
            input_id=sending.input_id,
            agent=session.agent,
            sender=sending.sender,
            guest=sending.guest.name if sending.guest else None,
            pinned=pinned,
        ),
        run_id=sending.run_id,
    )
    return SendResult(
        session_id=session.session_id, run_id=sending.run_id, status="queued", cursor=accepted.cursor
    )


def pinned_for(
    tx: Transaction, call: Call, sending: Sending, session: Session, definition: Definition
) -> Pinned:
    """What a run will use, with the instructions kept beside it.

    Errors: RouteNotFound, RouteNotReady, WorkspaceForbidden.
    """
    speaker = sending.guest or definition
    # Plan mode ends within a run: what it may do at most is what it may when that has ended.
    bounds = bounds_of(tx, call.runtime, unplanned(session), speaker)
    workspace = workspace_of(tx, call.runtime, session, sending.workspace, speaker)
    pinned = pin(call.runtime, sending, session, speaker, bounds, workspace)
    put_chunk(tx, speaker.digest, 0, speaker.instructions.encode())
    return pinned


def pin(
    runtime: Runtime,
    sending: Sending,
    session: Session,
    speaker: Definition,
    bounds: Bounds,
    workspace: str,
) -> Pinned:
    """What the run will use, by value: the request before the session before the agent's definition.

    A model belongs to the route it was named with: whoever names another route names its model or gets
    that route's own.

    Errors: RouteNotFound, RouteNotReady.
    """
    params = sending.params
    route = find_route(runtime, params.route, session.route, speaker.route)
    problem = runtime.models.problem(route)
    if problem is not None:
        raise RouteNotReady(f"the route '{route.route_id}' is not ready: {problem}", field="$.params.route")
    by_session = session.model if params.route is None else None
    by_agent = speaker.model if params.route is None and session.route is None else None
    return Pinned(
        route=route.route_id,
        driver=route.driver,
        model=params.model or by_session or by_agent or route.model,
        base_url=route.base_url,
        auth_ref=route.auth_ref,
        options=dict(route.options),
        instructions_digest=speaker.digest,
        tools=[] if sending.guest else both(speaker.tools, bounds.scope.tools),
        workspace=workspace,
        permission_mode=bounds.mode,
        max_turns=_ceiling(speaker.max_turns, runtime.config.runs.max_turns),
        context_tokens=route.context_tokens,
        generation=runtime.generation,
        debug=params.debug or runtime.config.debug.capture,
        output_contract=_contract(sending, session),
        requirements=params.completion_requirements,
        max_continuations=runtime.config.runs.max_continuations,
        budget=_budget(runtime, params, speaker, route),
        prices=route.prices,
    )


def _budget(
    runtime: Runtime, params: SendParams, speaker: Definition, route: RouteSpec
) -> PinnedBudget | None:
    """What the run may use at most: what the daemon, the agent and the request all allow.

    Errors: InvalidParams where the request limits a cost that nobody can tell.
    """
    asked = params.budget
    if asked is not None and asked.max_cost and route.prices is None:
        raise InvalidParams(
            f"the route '{route.route_id}' states no prices, so what a run costs cannot be limited",
            field="$.params.budget.max_cost",
        )
    budget = narrowest((runtime.config.runs.budget, speaker.budget, asked))
    if budget is None or route.prices is not None:
        return pin_budget(budget)
    return pin_budget(narrowest([msgspec.structs.replace(budget, max_cost=0.0)]))


def _contract(sending: Sending, session: Session) -> BoundContract | None:
    """What binds the run's output: the contract it was sent with, else the session's."""
    asked, schema = sending.params.output_contract, sending.schema
    return bound_to(asked, schema) if asked is not None and schema is not None else session.output_contract


def _ceiling(one: int | None, other: int) -> int:
    """The lower of two ceilings, of which 0 and None are none."""
    return min((limit for limit in (one, other) if limit), default=0)


def send_waits(params: SendParams) -> bool:
    """Whether a send has something to do after its commit."""
    return params.stream or params.wait == "settled"


def _stream(call: Call, result: SendResult) -> str | None:
    """The subscription to a run from its first event, its input, right before its acceptance.

    Shape: None where the connection can have no more: the input was accepted, so that is no refusal.
    """
    try:
        subscribed = call.connection.subscribe(
            Filter(session_id=result.session_id, run_id=result.run_id),
            max(result.cursor - 2, 0),
            deltas=True,
            until_settled=result.run_id,
        )
    except Overloaded:
        return None
    return subscribed.subscription


async def follow_send(call: Call, params: SendParams, result: SendResult) -> SendResult:
    """Stream and wait, as the params of a send say; both are done anew for a repeated request."""
    if params.stream:
        result = msgspec.structs.replace(result, subscription=_stream(call, result))
    if params.wait != "settled":
        return result
    run = await settled(call, result.session_id, result.run_id, params.timeout_s)
    with call.state.read() as store:
        given = given_by(store, run)
    return msgspec.structs.replace(
        result, status=run.status, error=run.error, usage=run.usage, cost=run.cost, **given
    )
