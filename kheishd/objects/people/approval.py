"""Approvals: calls that wait until a person allows or denies them. The first answer wins.

Only the audience of an approval answers it, with an allow or a deny. Where several people must agree, each
has one vote: the call is allowed by the vote that completes their number, and denied as soon as that number
has become impossible. An answer is remembered only if all of them wish so.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from kheishd.core.audience import count_votes, remember_together
from kheishd.core.run.commands import AnswerApprovals, ApprovalAnswer, ExpireApproval
from kheishd.kernel.call import Call, mutation, query
from kheishd.kernel.hook import ToolError
from kheishd.objects.people.audience import require_person
from kheishd.objects.people.listing import EventReader, PendingIndex, find_record, list_records, writer_of
from kheishd.objects.storable import require_storable
from kheishd.records.approval import APPROVAL_RECORDS
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import APPROVALS, APPROVALS_WAITING, RUNS, SESSIONS
from protocol import ids
from protocol.errors.approval import (
    AlreadyVoted,
    ApprovalAlreadyResolved,
    ApprovalExpired,
    ApprovalNotFound,
    ToolInputInvalid,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.events.approval import ApprovalAnswered, ApprovalRequested, ApprovalVoted
from protocol.events.hook import CallInputChanged
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
from protocol.structs import Value, fields_of

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction

PENDING: Final = PendingIndex("pending", APPROVALS_WAITING, in_slot=True)


def find_approval(
    store: Snapshot, call: Call, approval_id: str, field: str = "$.params.approval_id"
) -> Approval:
    """Return an approval that the caller may read. Errors: ApprovalNotFound."""
    approval = find_record(store, call, APPROVAL_RECORDS, approval_id)
    if approval is None:
        raise ApprovalNotFound(f"there is no approval '{approval_id}'", field=field)
    return approval


# Show.


def view_of(reader: EventReader, approval: Approval) -> ApprovalView:
    """Return an approval as shown: with the call's arguments, their change, its preview and its note."""
    requested = reader.event(approval.session_id, approval.created_cursor)
    answered = None
    if approval.resolved_cursor is not None:
        answered = reader.event(approval.session_id, approval.resolved_cursor)
    arguments = reader.arguments(approval.session_id, approval.message_cursor, approval.index)
    if approval.input_cursor is not None:
        changed = reader.event(approval.session_id, approval.input_cursor)
        if isinstance(changed, ApprovalAnswered | CallInputChanged) and changed.updated_input is not None:
            arguments = changed.updated_input
    return ApprovalView(
        **fields_of(Approval, approval),
        arguments=arguments,
        updated_input=answered.updated_input if isinstance(answered, ApprovalAnswered) else None,
        preview=requested.preview if isinstance(requested, ApprovalRequested) else None,
        note=requested.note if isinstance(requested, ApprovalRequested) else "",
    )


@query(rows.GET)
def get(call: Call, params: ApprovalRef) -> ApprovalView:
    """Show an approval."""
    with call.state.read() as store:
        return view_of(EventReader(store), find_approval(store, call, params.approval_id))


@query(rows.LIST)
def list_(call: Call, params: ApprovalListParams) -> ApprovalList:
    """List approvals, oldest first."""
    with call.state.read() as store:
        view = partial(view_of, EventReader(store))
        page, following = list_records(store, call, APPROVAL_RECORDS, params, pending=PENDING, view_of=view)
    return ApprovalList(page, following)


# Resolve.


class _Answer(Value, frozen=True):
    """A validated resolution: the field it arrived in, the changed input, and the id of a new grant."""

    resolution: Resolution
    field: str
    updated_input: dict[str, Any] | None
    grant_id: str


class _Resolutions(Value, frozen=True):
    """The validated resolutions of a request, and the sender that it names."""

    answers: list[_Answer]
    sender: str | None


def prepare_resolve(call: Call, params: ApprovalResolve) -> _Resolutions:
    """Validate resolutions. Errors: InvalidParams, ApprovalNotFound, ToolInputInvalid, InputTooLarge."""
    approval_ids: set[str] = set()
    answers: list[_Answer] = []
    for index, resolution in enumerate(params.resolutions):
        field = f"$.params.resolutions[{index}]"
        if resolution.approval_id in approval_ids:
            text = f"the approval '{resolution.approval_id}' is answered twice in one request"
            raise InvalidParams(text, field=f"{field}.approval_id")
        approval_ids.add(resolution.approval_id)
        _require_rememberable(resolution, field)
        updated = None
        if resolution.updated_input is not None:
            updated = _validate_input(call, resolution, resolution.updated_input, field)
        answers.append(_Answer(resolution, field, updated, call.state.new_id(ids.GRANT)))
    size = sum(map(_size_in_journal, answers))
    if size > MAX_RESOLUTIONS_BYTES:
        raise InputTooLarge(
            f"the answers take {size} bytes in the journal; the limit is {MAX_RESOLUTIONS_BYTES}: "
            "answer fewer at once, or shorten the notes",
            field="$.params.resolutions",
        )
    return _Resolutions(answers, params.sender)


def _require_rememberable(resolution: Resolution, field: str) -> None:
    """Reject a combination of ``remember`` with other fields that grants nothing. Errors: InvalidParams."""
    if resolution.remember == "once":
        if resolution.uses is not None:
            text = "'uses' limits a remembered answer; set 'remember' too"
            raise InvalidParams(text, field=f"{field}.uses")
    elif resolution.decision == "deny":
        text = "a denial is not remembered; add a deny rule with 'permission.update'"
        raise InvalidParams(text, field=f"{field}.remember")
    elif resolution.updated_input is not None:
        # A grant is for the input that the model wrote, which the person has just changed.
        text = "an answer that changes the input applies to this call only; set 'remember' to 'once'"
        raise InvalidParams(text, field=f"{field}.remember")


def _validate_input(
    call: Call, resolution: Resolution, updated_input: dict[str, Any], field: str
) -> dict[str, Any]:
    """Return a changed input as the tool takes it. Errors: as ``prepare_resolve``."""
    input_field = f"{field}.updated_input"
    if resolution.decision == "deny":
        raise InvalidParams("a denied call has no input to change", field=input_field)
    with call.state.read() as store:
        approval = find_approval(store, call, resolution.approval_id, f"{field}.approval_id")
    require_storable(updated_input, MAX_RESOLUTIONS_BYTES, "changed input", input_field)
    tool = call.runtime.hooks.find_tool(approval.tool)
    if tool is None:
        text = f"the tool '{approval.tool}' no longer exists, so its input cannot be changed; deny the call"
        raise ToolInputInvalid(text, field=input_field)
    try:
        arguments = call.runtime.hooks.validate(tool, updated_input)
    except ToolError as error:
        raise ToolInputInvalid(str(error), field=input_field) from error
    changed: dict[str, Any] = msgspec.to_builtins(arguments)
    return changed


def _size_in_journal(answer: _Answer) -> int:
    """Return the bytes of an answer's texts in the journal: each as often as events repeat it."""
    resolution = answer.resolution
    texts = ((answer.updated_input or {}, 1), (resolution.note, 4), (resolution.justification, 3))
    return sum(times * len(msgspec.json.encode(text)) for text, times in texts)


async def follow_resolve(call: Call, params: ApprovalResolve, result: ApprovalsResolved) -> ApprovalsResolved:
    """Complete the views, for which a receipt has no room."""
    with call.state.read() as store:
        reader = EventReader(store)
        approvals = [store.need(APPROVALS, view.approval_id) for view in result.approvals]
        views = [view_of(reader, approval) for approval in approvals]
    return replace(result, approvals=views)


@mutation(rows.RESOLVE, prepare=prepare_resolve, follow=follow_resolve)
def resolve(tx: Transaction, call: Call, request: _Resolutions) -> ApprovalsResolved:
    """Answer approvals of one run, or vote: all or none. The run resumes when none of its calls is pending.

    Errors: ApprovalNotFound, ApprovalAlreadyResolved, ApprovalExpired, NotInAudience, AlreadyVoted,
    SenderForbidden, SenderInvalid, InvalidParams.
    """
    answers = request.answers
    approvals = [
        find_approval(tx, call, answer.resolution.approval_id, f"{answer.field}.approval_id")
        for answer in answers
    ]
    first = approvals[0]
    senders: set[str | None] = set()
    for answer, approval in zip(answers, approvals, strict=True):
        field = f"{answer.field}.approval_id"
        if approval.run_id != first.run_id:
            text = (
                f"{approval.approval_id} belongs to another run than {first.approval_id}; answer run by run"
            )
            raise InvalidParams(text, field=field)
        _require_pending(tx, approval, field)
        senders.add(require_person(call, approval.audience, request.sender, field))
    # One caller is one person, who is named wherever an audience needs the name.
    sender = next(filter(None, senders), None)
    person = sender or call.caller.principal
    writer = writer_of(tx, call, tx.need(RUNS, first.run_id), sender)
    facts = []
    for answer, approval in zip(answers, approvals, strict=True):
        decided = _vote(writer, answer, approval, person)
        if decided is not None:
            people = [
                vote.person
                for vote in writer.need(APPROVALS, approval.approval_id).votes
                if vote.choice == "allow"
            ]
            facts.append(_make_answer(decided, approval, granted_by=", ".join(people) or person))
    writer.carry_out(AnswerApprovals(facts))
    writer.write()
    # The receipt leaves out the texts that people write and read; ``follow_resolve`` adds them.
    views = [
        ApprovalView(**fields_of(Approval, find_approval(tx, call, approval.approval_id)))
        for approval in approvals
    ]
    return ApprovalsResolved(
        approvals=[replace(view, subject="", justification="", denial_note="") for view in views],
        run_id=first.run_id,
        pending=sum(open_call.state == "asked" for open_call in writer.run.calls),
    )


def _require_pending(tx: Transaction, approval: Approval, field: str) -> None:
    """Reject an approval that is no longer pending. One whose time is over has expired, recorded or not.

    Errors: ApprovalAlreadyResolved, ApprovalExpired.
    """
    name = approval.approval_id
    if approval.status in ("allowed", "denied"):
        first = "the votes are complete" if approval.votes else "the first answer counts"
        text = f"{name} was {approval.status} by {approval.resolved_by} already; {first}"
        raise ApprovalAlreadyResolved(text, field=field)
    if approval.status == "withdrawn":
        raise ApprovalAlreadyResolved(f"{name} was withdrawn because its run has ended", field=field)
    if approval.status == "expired" or _has_expired(tx, approval):
        raise ApprovalExpired(field=field)


def _has_expired(tx: Transaction, approval: Approval) -> bool:
    return approval.expires_at_ms is not None and tx.now_ms >= approval.expires_at_ms


def _vote(writer: SessionWriter, answer: _Answer, approval: Approval, person: str) -> _Answer | None:
    """Record a vote where several people must agree; return the answer that decides, None while none does.

    Errors: AlreadyVoted, InvalidParams for a changed input.
    """
    audience, resolution = approval.audience, answer.resolution
    if audience is None or audience.votes == 1:
        return answer
    if any(vote.person == person for vote in approval.votes):
        text = f"'{person}' has voted on {approval.approval_id} already; the first vote counts"
        raise AlreadyVoted(text, field=f"{answer.field}.approval_id")
    if answer.updated_input is not None:
        text = "several people must agree on this call as it is; leave 'updated_input' out, or deny the call"
        raise InvalidParams(text, field=f"{answer.field}.updated_input")
    voted = ApprovalVoted(
        approval_id=approval.approval_id,
        call_id=approval.call_id,
        person=person,
        decision=resolution.decision,
        note=resolution.note,
        justification=resolution.justification,
        remember=resolution.remember,
        uses=resolution.uses,
    )
    writer.append(voted)
    votes = writer.need(APPROVALS, approval.approval_id).votes
    if count_votes(audience, votes, ["allow"]) is None:
        return None
    # The vote that decides an allow is an allow, and the one that makes it impossible a denial.
    together = remember_together(votes)
    resolution = replace(resolution, remember=together.remember, uses=together.uses)
    return replace(answer, resolution=resolution)


def _make_answer(answer: _Answer, approval: Approval, granted_by: str) -> ApprovalAnswer:
    """Return the facts of an answer. Errors: InvalidParams where it cannot be remembered."""
    resolution = answer.resolution
    grant = None
    if resolution.remember != "once":
        if len(approval.subject.encode()) >= MAX_SUBJECT_BYTES - 3 and approval.subject.endswith("…"):
            # The subject was truncated. A grant matches one subject exactly, so this one would match nothing.
            text = "the subject of this call is too long to be remembered"
            raise InvalidParams(text, field=f"{answer.field}.remember")
        grant = Grant(
            grant_id=answer.grant_id,
            tool=approval.tool,
            granted_by=granted_by,
            subject=approval.subject or None,
            facts=approval.facts,
            remaining_uses=resolution.uses,
            approval_id=approval.approval_id,
            audience=approval.audience,
        )
    return ApprovalAnswer(
        call_id=approval.call_id,
        decision=resolution.decision,
        updated_input=answer.updated_input,
        note=resolution.note,
        justification=resolution.justification,
        remember=resolution.remember,
        grant=grant,
    )


# Expire.


def expire(tx: Transaction, approval_id: str) -> None:
    """Deny a call whose approval has expired. Leave one that was answered alone."""
    approval = tx.get(APPROVALS, approval_id)
    if approval is None or approval.status != "pending" or not _has_expired(tx, approval):
        return
    run = tx.need(RUNS, approval.run_id)
    writer = SessionWriter(tx, run.session_id, session=tx.need(SESSIONS, run.session_id), run=run)
    writer.carry_out(ExpireApproval(approval.call_id))
    writer.write()


HANDLERS = (get, list_, resolve)
