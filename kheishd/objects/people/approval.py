"""Approvals: calls that wait for a person's yes or no. The first answer wins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from kheishd.core import approval as rules
from kheishd.core.run.commands import Lapse, Resolve
from kheishd.kernel.call import Call, mutation, query
from kheishd.kernel.hook import ToolError
from kheishd.objects.people.listing import Reader, Waiting, find, fold_of, page
from kheishd.objects.storable import require_storable
from kheishd.records.approval import APPROVAL_RECORDS
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import APPROVALS, APPROVALS_WAITING, RUNS, SESSIONS
from protocol import ids
from protocol.errors.approval import (
    ApprovalAlreadyResolved,
    ApprovalExpired,
    ApprovalNotFound,
    ToolInputInvalid,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.events.approval import ApprovalAnswered, ApprovalRequested
from protocol.limits.call import MAX_SUBJECT_BYTES
from protocol.limits.permission import MAX_RESOLUTIONS_BYTES
from protocol.objects import approval as rows
from protocol.objects.approval import (
    Approval,
    ApprovalList,
    ApprovalListParams,
    ApprovalRef,
    ApprovalResolve,
    ApprovalsResolved,
    ApprovalView,
    Resolution,
)
from protocol.objects.permission import Grant

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction


def find_approval(
    store: Snapshot, call: Call, approval_id: str, field: str = "$.params.approval_id"
) -> Approval:
    """An approval that the caller may read.

    Errors: ApprovalNotFound, also for one whose agent or sender the caller's token does not cover.
    """
    approval = find(store, call, APPROVAL_RECORDS, approval_id)
    if approval is None:
        raise ApprovalNotFound(f"there is no approval '{approval_id}'", field=field)
    return approval


def view_of(reader: Reader, approval: Approval) -> ApprovalView:
    """An approval with what is to be decided: the call's input, what it would do, and how it was changed."""
    asked = reader.event(approval.session_id, approval.created_cursor)
    answered = (
        reader.event(approval.session_id, approval.resolved_cursor)
        if approval.resolved_cursor is not None
        else None
    )
    return replace(
        _bare(approval),
        arguments=reader.arguments(approval.session_id, approval.message_cursor, approval.index),
        updated_input=answered.updated_input if isinstance(answered, ApprovalAnswered) else None,
        preview=asked.preview if isinstance(asked, ApprovalRequested) else None,
        note=asked.note if isinstance(asked, ApprovalRequested) else "",
    )


def _bare(approval: Approval) -> ApprovalView:
    return ApprovalView(**{name: getattr(approval, name) for name in Approval.__struct_fields__})


# Showing.

WAITING: Final = Waiting("pending", APPROVALS_WAITING, in_slot=True)


@query(rows.GET)
def get(call: Call, params: ApprovalRef) -> ApprovalView:
    """Show one approval."""
    with call.state.read() as store:
        return view_of(Reader(store), find_approval(store, call, params.approval_id))


@query(rows.LIST)
def list_(call: Call, params: ApprovalListParams) -> ApprovalList:
    """List approvals, oldest first."""
    with call.state.read() as store:
        show = partial(view_of, Reader(store))
        found, following = page(store, call, APPROVAL_RECORDS, params, waiting=WAITING, show=show)
    return ApprovalList(found, following)


# Resolving.


async def _shown(call: Call, params: ApprovalResolve, result: ApprovalsResolved) -> ApprovalsResolved:
    """The result with all there is to show: read anew, as a receipt has no room for it."""
    with call.state.read() as store:
        reader = Reader(store)
        records = [store.get(APPROVALS, approval.approval_id) for approval in result.approvals]
        views = [view_of(reader, record) for record in records if record is not None]
    return replace(result, approvals=views)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One resolution made ready: its input as the tool wants it, and the id of what is remembered."""

    resolution: Resolution
    field: str
    updated_input: dict[str, Any] | None
    grant_id: str


def _prepare(call: Call, params: ApprovalResolve) -> list[_Answer]:
    """Errors: InvalidParams, ApprovalNotFound, ToolInputInvalid, InputTooLarge."""
    seen: set[str] = set()
    answers: list[_Answer] = []
    for number, resolution in enumerate(params.resolutions):
        field = f"$.params.resolutions[{number}]"
        if resolution.approval_id in seen:
            text = f"the approval '{resolution.approval_id}' is answered twice in one request"
            raise InvalidParams(text, field=f"{field}.approval_id")
        seen.add(resolution.approval_id)
        _check_remembering(resolution, field)
        updated = _input(call, resolution, field) if resolution.updated_input is not None else None
        answers.append(_Answer(resolution, field, updated, call.state.new_id(ids.GRANT)))
    size = sum(map(_written_bytes, answers))
    if size > MAX_RESOLUTIONS_BYTES:
        raise InputTooLarge(
            f"the answers take {size} bytes as they are written down; the limit is {MAX_RESOLUTIONS_BYTES}: "
            "answer fewer of them at once, or say less",
            field="$.params.resolutions",
        )
    return answers


def _check_remembering(resolution: Resolution, field: str) -> None:
    if resolution.remember == "once":
        if resolution.uses is not None:
            text = "'uses' counts how often a remembered answer holds; say 'remember' too"
            raise InvalidParams(text, field=f"{field}.uses")
    elif resolution.decision == "deny":
        text = "a denial is not remembered; a permission rule denies for good ('permission.update')"
        raise InvalidParams(text, field=f"{field}.remember")
    elif resolution.updated_input is not None:
        # What would be granted is what the model wrote, of which the person has just said that it is wrong.
        text = "an answer that changes the input is for this call only; say 'once'"
        raise InvalidParams(text, field=f"{field}.remember")


def _input(call: Call, resolution: Resolution, field: str) -> dict[str, Any]:
    """A changed input as the tool wants it. Errors: as ``_prepare``."""
    field = f"{field}.updated_input"
    if resolution.decision == "deny":
        raise InvalidParams("a call that is denied has no input to change", field=field)
    with call.state.read() as store:
        approval = find_approval(
            store, call, resolution.approval_id, field.replace("updated_input", "approval_id")
        )
    require_storable(resolution.updated_input, MAX_RESOLUTIONS_BYTES, "changed input", field)
    tool = call.runtime.hooks.find_tool(approval.tool)
    if tool is None:
        text = f"the tool '{approval.tool}' is gone, so its input cannot be changed; deny the call"
        raise ToolInputInvalid(text, field=field)
    try:
        arguments = call.runtime.hooks.validate(tool, resolution.updated_input or {})
        changed: dict[str, Any] = msgspec.to_builtins(arguments)
        return changed
    except ToolError as error:
        raise ToolInputInvalid(str(error), field=field) from error


def _written_bytes(answer: _Answer) -> int:
    """What an answer takes besides what every answer does: each text as often as it is written."""
    resolution = answer.resolution
    texts = ((answer.updated_input or {}, 1), (resolution.note, 3), (resolution.justification, 2))
    return sum(times * len(msgspec.json.encode(text)) for text, times in texts)


@mutation(rows.RESOLVE, prepare=_prepare, follow=_shown, follows=lambda params: True)
def resolve(tx: Transaction, call: Call, plan: list[_Answer]) -> ApprovalsResolved:
    """Answer approvals of one run: all of them or none. The run goes on once none of it waits any more."""
    found = [
        find_approval(tx, call, answer.resolution.approval_id, f"{answer.field}.approval_id")
        for answer in plan
    ]
    for answer, approval in zip(plan, found, strict=True):
        if approval.run_id != found[0].run_id:
            text = f"{approval.approval_id} is of another run than {found[0].approval_id}; answer run by run"
            raise InvalidParams(text, field=f"{answer.field}.approval_id")
        _see_that_it_waits(tx, approval, answer.field)
    run = tx.need(RUNS, found[0].run_id)
    events = [
        _answered(call, answer, approval, f"{answer.field}.remember")
        for answer, approval in zip(plan, found, strict=True)
    ]
    results = [
        rules.make_denial(approval, "denied", event.note)
        for event, approval in zip(events, found, strict=True)
        if event.decision == "deny"
    ]
    fold = fold_of(tx, call, run)
    fold.carry_out(Resolve(events, results))
    fold.write()
    return ApprovalsResolved(
        approvals=[_briefly(find_approval(tx, call, approval.approval_id)) for approval in found],
        run_id=run.run_id,
        pending=sum(each.state == "asked" for each in fold.run.calls),
    )


def _briefly(approval: Approval) -> ApprovalView:
    """An approval without what a person wrote or is to read of it."""
    return replace(_bare(approval), subject="", justification="", denial_note="")


def _see_that_it_waits(tx: Transaction, approval: Approval, field: str) -> None:
    """Errors: ApprovalAlreadyResolved, saying who answered; ApprovalExpired, also before that is written
    down.
    """
    name, field = approval.approval_id, f"{field}.approval_id"
    if approval.status in ("allowed", "denied"):
        text = f"{name} was {approval.status} by {approval.resolved_by} already; the first answer counts"
        raise ApprovalAlreadyResolved(text, field=field)
    if approval.status == "withdrawn":
        raise ApprovalAlreadyResolved(f"{name} is no longer asked for: its run has ended", field=field)
    if approval.status == "expired" or not _in_time(tx, approval.expires_at_ms):
        raise ApprovalExpired(field=field)


def _in_time(tx: Transaction, expires_at_ms: int | None) -> bool:
    return expires_at_ms is None or tx.now_ms < expires_at_ms


def _answered(call: Call, answer: _Answer, approval: Approval, field: str) -> ApprovalAnswered:
    """The event of an answer. Errors: InvalidParams where it cannot be remembered."""
    resolution = answer.resolution
    grant = None
    if resolution.remember != "once":
        if len(approval.subject.encode()) >= MAX_SUBJECT_BYTES - 3 and approval.subject.endswith("…"):
            # It was cut, and a grant is for one thing, to the letter: this one would never hold.
            raise InvalidParams("what this is about is too long to be remembered", field=field)
        grant = Grant(
            grant_id=answer.grant_id,
            tool=approval.tool,
            granted_by=call.caller.principal,
            subject=approval.subject or None,
            remaining_uses=resolution.uses,
            approval_id=approval.approval_id,
        )
    return ApprovalAnswered(
        approval_id=approval.approval_id,
        call_id=approval.call_id,
        decision=resolution.decision,
        updated_input=answer.updated_input,
        note=resolution.note,
        justification=resolution.justification,
        remember=resolution.remember,
        grant=grant,
    )


# Expiring.


def lapse(tx: Transaction, approval_id: str) -> None:
    """Deny a call that nobody answered for in time. What was answered meanwhile is left as it is."""
    approval = tx.get(APPROVALS, approval_id)
    if approval is None or approval.status != "pending" or _in_time(tx, approval.expires_at_ms):
        return
    run = tx.need(RUNS, approval.run_id)
    fold = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
    fold.carry_out(Lapse(approval_id, rules.make_denial(approval, "expired")))
    fold.write()


HANDLERS = (get, list_, resolve)
