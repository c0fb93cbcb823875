"""Wake a conversation or a session: give it an input that nobody typed, by a schedule or an event.

Read from top to bottom: ``require_valid_target`` judges a target when it is stored; ``prepare_wake`` assigns
ids on the event loop, before the transaction; ``wake`` is part of the transaction. A target that cannot take
the input changes nothing: the refusal is a value, which the caller records.

The run has the rights of its session, and requests to people go to the session's audience. The input has its
own origin; an operator's prompt is an instruction all the same, an agent's is a delegated task, and ``data``
is never more than data. While a run is in flight, the busy policy of the conversation applies, except that
a wake interrupts no run: it waits for its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.core.run.commands import Steer
from kheishd.core.session import evolve
from kheishd.core.trust import join_origins, trust_of
from kheishd.objects.agents.skill import catalogue_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import definition_of, find_definition, find_session, require_valid_sender
from kheishd.objects.talk.bounds import bounds_of, find_closed, scope_of
from kheishd.objects.talk.busy import place_message
from kheishd.objects.talk.input import apply_input_contract
from kheishd.objects.talk.persona import bind_at_creation
from kheishd.objects.talk.pin import pin_run, require_runnable
from kheishd.records.writer import BY_DAEMON, Origin, SessionWriter
from kheishd.store.tables import CONVERSATIONS, SESSIONS
from protocol import ids
from protocol.errors.definition import AgentNotFound
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import QueueFull, SessionAlreadyEnded, SessionNotFound
from protocol.errors.skill import SkillNotFound
from protocol.errors.store import StoreDamaged
from protocol.events.conversation import ConversationBound
from protocol.events.run import InputReceived, RunAccepted
from protocol.events.session import SessionCreated
from protocol.journal.envelope import Envelope
from protocol.limits.names import MAX_SOURCE_BYTES
from protocol.limits.session import MAX_INPUT_BYTES, MAX_QUEUED_RUNS
from protocol.objects.conversation import DEFAULT_SENDER
from protocol.objects.run import SendParams
from protocol.structs import Value
from protocol.text import truncate
from protocol.transcript import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.kernel.call import Call, Caller
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Applied
    from protocol.objects.session import Session
    from protocol.objects.wake import WakeTarget
    from protocol.transcript import Authority, InputItem, InputOrigin


class WakePlan(Value, frozen=True):
    """A target, and the ids that its session, its input and its run will have.

    ``problem``: why its skill cannot be used.
    """

    target: WakeTarget
    session_id: str
    run_id: str
    input_id: str
    steer_id: str
    problem: Refusal | None = None


class Woken(Value, frozen=True):
    """A target that took the input: the session, the run that answers it, and how it was taken."""

    session_id: str
    run_id: str
    applied: Applied


class NotWoken(Value, frozen=True):
    """A target that did not take the input, and the refusal."""

    reason: str
    message: str
    session_id: str | None = None


def require_valid_target(call: Call, target: WakeTarget, field: str = "$.params.target") -> WakeTarget:
    """Require a target with one address and one task, which the caller may write to; return it complete.

    Errors: InvalidParams, SenderInvalid, SenderForbidden, AgentForbidden, AgentNotFound, SessionNotFound,
    SkillNotFound, InputTooLarge.
    """
    if (target.agent is None) == (target.session_id is None):
        raise InvalidParams("give either 'agent' (with 'sender') or 'session_id'", field=f"{field}.agent")
    if target.session_id is not None and target.sender is not None:
        raise InvalidParams("a session has its own sender; leave 'sender' out", field=f"{field}.sender")
    if (target.prompt is None) == (target.skill is None):
        raise InvalidParams("give either 'prompt' or 'skill' (with 'arguments')", field=f"{field}.prompt")
    if target.prompt is not None and (target.arguments or not target.prompt.strip()):
        name = "arguments" if target.arguments else "prompt"
        text = "only a skill takes 'arguments'" if target.arguments else "the prompt is blank"
        raise InvalidParams(text, field=f"{field}.{name}")
    require_storable(text_of_target(target), MAX_INPUT_BYTES // 4, "task", f"{field}.prompt")
    if target.agent is not None:
        find_definition(call, target.agent, f"{field}.agent")
        target = replace(target, sender=target.sender or DEFAULT_SENDER)
        require_valid_sender(target.sender or "", f"{field}.sender")
        call.caller.require_sender(target.sender, f"{field}.sender")
    with call.state.read() as store:
        if target.session_id is not None:
            session = find_session(store, call, target.session_id, f"{field}.session_id")
            call.caller.require_agent(session.agent, f"{field}.session_id")
        problem = _find_skill_problem(store, call.runtime, target)
    if problem is not None:
        raise SkillNotFound(problem.message, field=f"{field}.skill")
    return target


def authority_of(caller: Caller) -> tuple[Authority | None, list[InputOrigin]]:
    """Return the authority of the task of a target that a caller stores, and the origins of its author.

    A caller whose token fixes an origin of data cannot store an instruction.
    """
    origin = caller.origin or "person"
    return ("operator", []) if trust_of(origin) == "instruction" else (None, [origin])


def text_of_target(target: WakeTarget) -> str:
    """Return the text of a target's task."""
    if target.prompt is not None:
        return target.prompt
    arguments = f" with these arguments:\n\n{target.arguments}" if target.arguments else "."
    return f"Use the skill '{target.skill}' now{arguments}"


def prepare_wake(state: State, runtime: Runtime, target: WakeTarget) -> WakePlan:
    """Assign the ids of a wake, and look for its skill. It runs on the event loop."""
    problem = None
    if target.skill is not None:
        with state.read() as store:
            problem = _find_skill_problem(store, runtime, target)
    new_id = state.new_id
    own = (new_id(ids.SESSION), new_id(ids.RUN), new_id(ids.INPUT), new_id(ids.STEER))
    return WakePlan(target, *own, problem)


def _find_skill_problem(store: Snapshot, runtime: Runtime, target: WakeTarget) -> SkillNotFound | None:
    """Return why a target's skill cannot be used; None without a problem or a skill."""
    if target.skill is None:
        return None
    session = find_target(store, target)
    if session is not None:
        skills = catalogue_of(store, runtime, session)
        allowed = bounds_of(store, runtime, session).scope.skills
    else:
        definition = runtime.definitions.get(target.agent or "")
        skills, allowed = runtime.skills.catalogue().skills, definition.skills if definition else None
    if target.skill in skills and (allowed is None or target.skill in allowed):
        return None
    return SkillNotFound(f"the target can use no skill '{target.skill}'")


def find_target(store: Snapshot, target: WakeTarget) -> Session | None:
    """Return the session of a target; None if there is none, or if that of a conversation has ended."""
    if target.session_id is not None:
        return store.get(SESSIONS, target.session_id)
    binding = store.get(CONVERSATIONS, target.agent or "", target.sender or DEFAULT_SENDER)
    session = store.get(SESSIONS, binding.session_id) if binding is not None else None
    return session if session is not None and session.status == "open" else None


def wake(
    tx: Transaction,
    runtime: Runtime,
    plan: WakePlan,
    *,
    origin: InputOrigin,
    source: str,
    authority: Authority | None = "operator",
    data: str = "",
    origins: Sequence[InputOrigin] = (),
    hops: int = 0,
    cause: Origin = BY_DAEMON,
) -> Woken | NotWoken:
    """Give a target its task as an input, with ``data`` after it, and accept the run that answers it.

    Args:   ``authority``: the author of the task: an operator, or an agent, which had read the ``origins``.
            ``hops``: the number of events on the bus that led to it. ``cause``: the party that the events
            of the journal name.
    Errors: those of the store. The refusal of a target is returned.
    """
    session = None
    try:
        session, creation = _open_target(tx, runtime, plan, plan.target)
        definition = definition_of(runtime, session)
        items: list[InputItem] = [Text(text_of_target(plan.target)), *([Text(data)] if data else [])]
        require_storable(items, MAX_INPUT_BYTES, "input", "$.params.target")
        if session.input_contract is not None and data:
            # The contract is about one text: that of the task alone cannot be told from the data any more.
            authority = None
        items = apply_input_contract(tx, session, items, "$.params.target")
        settings = SendParams()
        busy = session.busy or definition.busy or runtime.config.runs.busy
        place = place_message(tx, session, "queue" if busy == "interrupt" else busy, settings)
        if len(session.open_runs) > MAX_QUEUED_RUNS:
            text = f"the session has {MAX_QUEUED_RUNS} runs waiting; wait for some to end or cancel them"
            raise QueueFull(text)
        if place.applied != "steered":
            require_runnable(tx, runtime, session, definition, settings)
    except StoreDamaged:
        raise
    except Refusal as refusal:
        return NotWoken(refusal.reason, refusal.message, session.session_id if session is not None else None)
    source = truncate(source, MAX_SOURCE_BYTES)
    writer = SessionWriter(tx, session.session_id, session=None if creation else session, origin=cause)
    if creation is not None:
        writer.append(creation)
        writer.append(ConversationBound(agent=session.agent, sender=session.sender or DEFAULT_SENDER))
    if place.run is not None:
        writer.continue_run(place.run)
        steer = Steer(plan.steer_id, items, session.sender, origin, source, authority, list(origins), hops)
        writer.carry_out(steer)
        writer.write()
        return Woken(session.session_id, place.run.run_id, place.applied)
    pinned = pin_run(tx, runtime, writer.session, definition, settings)
    writer.begin_run(plan.run_id, pinned)
    writer.append(
        InputReceived(
            input_id=plan.input_id,
            items=items,
            sender=session.sender,
            origin=origin,
            source=source,
            authority=authority,
        )
    )
    writer.append(
        RunAccepted(
            input_id=plan.input_id,
            agent=session.agent,
            sender=session.sender,
            pinned=pinned,
            origins=join_origins([origin], origins),
            hops=hops,
        )
    )
    writer.write()
    return Woken(session.session_id, plan.run_id, place.applied)


def _open_target(
    tx: Transaction, runtime: Runtime, plan: WakePlan, target: WakeTarget
) -> tuple[Session, SessionCreated | None]:
    """Return the open session of a target; for a conversation without one, that to be created, and its event.

    Errors: SessionNotFound, AgentNotFound, SessionAlreadyEnded, PersonaNotFound, SkillNotFound.
    """
    session = find_target(tx, target)
    if session is None and target.session_id is not None:
        raise SessionNotFound(f"there is no session '{target.session_id}'")
    closed = find_closed(tx, session) if session is not None else None
    if closed is not None:
        raise SessionAlreadyEnded(f"{closed.message}; it takes no more input")
    if plan.problem is not None:
        raise plan.problem
    if session is not None:
        return session, None
    definition = runtime.definitions.get(target.agent or "")
    if definition is None:
        raise AgentNotFound(f"there is no agent '{target.agent}'")
    creation = SessionCreated(
        agent=definition.name,
        sender=target.sender or DEFAULT_SENDER,
        scope=scope_of(definition),
        persona=bind_at_creation(tx, definition, tx.now_ms),
    )
    envelope = Envelope(cursor=0, at_ms=tx.now_ms, session_id=plan.session_id)
    return evolve(None, envelope, creation), creation
