"""Send the user's answers to pending requests, and attribute every answer to its author.

The first answer to a request counts. An answer of this chat is attributed to ``you`` only after the daemon
has accepted it. If the journal reports the closing earlier, its change is held back until the daemon has
answered.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, assert_never
from uuid import uuid4

from kheishctl.client import ConnectionLost, RequestRefused
from kheishctl.contract import Json
from kheishctl.render.changes import (
    ApprovalClosing,
    ApprovalOpening,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    QuestionClosing,
    QuestionOpening,
)
from kheishctl.render.units import format_actor
from kheishctl.shell.pending import Actions, EditInput, PendingRequests, ResolveApprovals, SubmitAnswers

# Refusals that need no note, because the journal reports who was first.
ALREADY_CLOSED = ("approval_already_resolved", "approval_expired", "question_closed", "question_expired")

# The longest input that can be edited on a terminal's line.
MAX_EDITED_CHARACTERS = 8 * 1_024

YOU = "you"

Closing = ApprovalClosing | QuestionClosing | DoubtClosing


class AnswerView(Protocol):
    """The display of the person who answers."""

    def show(self, change: DisplayChange) -> None:
        """Show a change of the conversation."""
        ...

    def note(self, text: str, style: str = "dim") -> None:
        """Show a note about an answer."""
        ...

    def edit_text(self, text: str) -> None:
        """Put a text into the prompt, to be edited."""
        ...


class AnswerSender:
    """The pending requests and calls in doubt, with the answers in flight. ``call`` calls the daemon."""

    def __init__(self, call: Callable[[str, Json], Awaitable[Any]], view: AnswerView) -> None:
        self.pending = PendingRequests()
        self.doubts: dict[str, Json] = {}
        self._call = call
        self._view = view
        self._in_flight: set[str] = set()
        self._accepted: set[str] = set()
        self._delayed: dict[str, Closing] = {}

    def replace(self, requests: Iterable[Json], doubts: Iterable[Json]) -> None:
        """Replace all pending requests and all calls in doubt."""
        self.pending.replace(requests)
        self.doubts = {str(doubt["indoubt_id"]): doubt for doubt in doubts}

    def track(self, change: DisplayChange) -> DisplayChange | None:
        """Update the requests; return the change to show now, or None for a closing that is held back."""
        match change:
            case ApprovalOpening(record) | QuestionOpening(record):
                self.pending.add(record)
            case ApprovalClosing(key) | QuestionClosing(key) | DoubtClosing(key):
                self.pending.remove(key)
                self.doubts.pop(key, None)
                if key in self._in_flight:
                    self._delayed[key] = change
                    return None
                return self._attribute(change, key)
            case DoubtOpening(doubt):
                self.doubts[str(doubt["indoubt_id"])] = doubt
            case _:
                pass  # Other changes need no answer.
        return change

    def _attribute(self, change: Closing, key: str) -> Closing:
        is_ours = key in self._accepted and bool(change.actor)
        self._accepted.discard(key)
        return change.replace(actor=YOU if is_ours else format_actor(change.actor))

    async def carry_out(self, actions: Actions) -> None:
        """Carry out actions in order. After a refusal the view shows a note and the request again."""
        for action in actions:
            try:
                match action:
                    case ResolveApprovals(resolutions):
                        await self._send(action.ids, "approval.resolve", {"resolutions": list(resolutions)})
                    case SubmitAnswers(question_id, answers, declined):
                        answer = {"answers": list(answers), "declined": declined}
                        await self._send(
                            [question_id], "question.answer", {"question_id": question_id} | answer
                        )
                    case EditInput(approval_id):
                        await self._edit_input(approval_id)
                    case _:
                        assert_never(action)
            except (RequestRefused, ConnectionLost) as failure:
                if not isinstance(failure, RequestRefused) or failure.reason not in ALREADY_CLOSED:
                    self._view.note(str(failure), "red")
                elif isinstance(action, ResolveApprovals) and len(action.ids) > 1:
                    self._view.note(
                        "one of these approvals was answered meanwhile, so none of your answers was accepted",
                        "yellow",
                    )

    async def resolve_doubt(self, params: Json) -> None:
        """Resolve a call in doubt. Errors: RequestRefused, ConnectionLost."""
        await self._send([str(params["indoubt_id"])], "indoubt.resolve", params)

    async def _send(self, keys: list[str], method: str, params: Json) -> None:
        self._in_flight.update(keys)
        try:
            await self._call(method, params | {"idempotency_key": f"kheishctl-{uuid4().hex}"})
            self._accepted.update(keys)
        except (RequestRefused, ConnectionLost):
            self.pending.restore(keys)
            raise
        finally:
            self._in_flight.difference_update(keys)
            for key in keys:
                if (change := self._delayed.pop(key, None)) is not None:
                    self._view.show(self._attribute(change, key))

    async def _edit_input(self, approval_id: str) -> None:
        approval = await self._call("approval.get", {"approval_id": approval_id})
        text = json.dumps(approval.get("arguments", {}), ensure_ascii=False, indent=2)
        if len(text) > MAX_EDITED_CHARACTERS:
            note = "the input is too long to edit here; deny the call with a note about the change"
            self._view.note(note, "yellow")
        elif self.pending.start_edit(approval_id):
            self._view.edit_text(text)
