"""Tests of sending answers and attributing them."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kheishctl.client import ConnectionLost, Failure, RequestRefused
from kheishctl.contract import Json
from kheishctl.render.changes import (
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    QuestionClosing,
    QuestionOpening,
)
from kheishctl.shell.answers import MAX_EDITED_CHARACTERS, AnswerSender
from kheishctl.shell.pending import EditInput, LineEntry, ResolveApprovals, SubmitAnswers
from tests.support.daemons import PATIENCE_S

APPROVAL = {"approval_id": "apr_1", "run_id": "run_1", "tool": "bash"}
QUESTION = {"question_id": "qst_1", "questions": [{"key": "k", "question": "Why?"}]}
ALLOW = ResolveApprovals(({"approval_id": "apr_1", "decision": "allow"},))
MY_ACTOR = f"uid:{os.getuid()}"
MY_NAME = pwd.getpwuid(os.getuid()).pw_name


def close_approval(actor: str = MY_ACTOR, outcome: str = "allow") -> ApprovalClosing:
    """Return the change of an approval that was answered."""
    return ApprovalClosing("apr_1", "bash", "ls", outcome, actor)


class Bench:
    """An AnswerSender between a fake daemon and a fake view."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Json]] = []
        self.changes: list[DisplayChange] = []
        self.notes: list[str] = []
        self.texts: list[str] = []
        self.result: Any = {}
        self.on_call: Callable[[], object] = lambda: None
        self.answers = AnswerSender(self._call, self)

    async def _call(self, method: str, params: Json) -> Any:
        self.calls.append((method, params))
        self.on_call()
        if isinstance(self.result, Failure):
            raise self.result
        return self.result

    def show(self, change: DisplayChange) -> None:
        """Record a shown change."""
        self.changes.append(change)

    def note(self, text: str, style: str = "dim") -> None:
        """Record a note."""
        self.notes.append(text)

    def edit_text(self, text: str) -> None:
        """Record a text for the prompt."""
        self.texts.append(text)

    def receive(self, change: DisplayChange) -> None:
        """Receive a change from the journal."""
        visible = self.answers.track(change)
        if visible is not None:
            self.changes.append(visible)

    @property
    def pending_ids(self) -> list[str]:
        """The ids of the pending requests."""
        return [request.key for request in self.answers.pending.requests]


def run(body: Callable[[Bench], Awaitable[None]]) -> Bench:
    """Run a body on a bench with a pending approval and a pending question."""

    async def main() -> Bench:
        bench = Bench()
        bench.receive(ApprovalOpening(APPROVAL))
        bench.receive(QuestionOpening(QUESTION))
        async with asyncio.timeout(PATIENCE_S):
            await body(bench)
        return bench

    return asyncio.run(main())


def make_refusal(reason: str) -> RequestRefused:
    """Return a refusal with a reason."""
    return RequestRefused({"code": 1409, "message": f"because of {reason}", "data": {"reason": reason}})


@pytest.mark.parametrize("early", [True, False], ids=["journal first", "answer first"])
def test_own_answer(early: bool) -> None:
    """An accepted answer is shown once as ours, whether the journal or the daemon's answer is first."""

    async def body(bench: Bench) -> None:
        if early:
            bench.on_call = lambda: bench.receive(close_approval())
        bench.answers.pending.resolve([bench.answers.pending.requests[0]], "allow")
        await bench.answers.carry_out((ALLOW,))
        if not early:
            bench.receive(close_approval())

    bench = run(body)
    [(method, params)] = bench.calls
    assert method == "approval.resolve"
    assert params["resolutions"] == list(ALLOW.resolutions)
    assert params["idempotency_key"]
    assert bench.changes[-1] == close_approval("you")
    assert bench.pending_ids == ["qst_1"]


def test_answer_of_another_person() -> None:
    """If another person was first, they are named, and the refusal adds no note."""

    async def body(bench: Bench) -> None:
        bench.on_call = lambda: bench.receive(close_approval())
        bench.result = make_refusal("approval_already_resolved")
        await bench.answers.carry_out((ALLOW,))

    bench = run(body)
    assert bench.changes[-1] == close_approval(MY_NAME)
    assert bench.notes == []
    assert bench.pending_ids == ["qst_1"]


def test_one_of_several_was_answered() -> None:
    """If one of several approvals was answered meanwhile, a note says that no answer counts."""
    both = ResolveApprovals((*ALLOW.resolutions, {"approval_id": "apr_2", "decision": "allow"}))

    async def body(bench: Bench) -> None:
        bench.result = make_refusal("approval_already_resolved")
        await bench.answers.carry_out((both,))

    bench = run(body)
    assert bench.notes == [
        "one of these approvals was answered meanwhile, so none of your answers was accepted"
    ]
    assert bench.pending_ids == ["apr_1", "qst_1"]


@pytest.mark.parametrize("failure", [make_refusal("storage_full"), ConnectionLost("connection lost")])
def test_failed_answer(failure: Failure) -> None:
    """If an answer fails, a note gives the failure, and the request stays pending."""

    async def body(bench: Bench) -> None:
        bench.result = failure
        bench.answers.pending.resolve([bench.answers.pending.requests[0]], "allow")
        await bench.answers.carry_out((ALLOW,))

    bench = run(body)
    assert bench.notes == [str(failure)]
    assert bench.pending_ids == ["apr_1", "qst_1"]


def test_lapse_is_attributed_to_nobody() -> None:
    """A request that lapses was not answered by us, even if we answered at the same moment."""

    async def body(bench: Bench) -> None:
        await bench.answers.carry_out((ALLOW,))
        bench.receive(close_approval("", "withdrawn"))

    assert run(body).changes[-1] == close_approval("", "withdrawn")


def test_question() -> None:
    """The answer to a question is sent with all its parts and shown as ours."""
    answers = ({"key": "k", "text": "so"},)

    async def body(bench: Bench) -> None:
        await bench.answers.carry_out((SubmitAnswers("qst_1", answers),))
        bench.receive(QuestionClosing("qst_1", "answered", MY_ACTOR, "so"))

    bench = run(body)
    [(method, params)] = bench.calls
    assert method == "question.answer"
    assert (params["answers"], params["declined"]) == (list(answers), False)
    assert bench.changes[-1] == QuestionClosing("qst_1", "answered", "you", "so")


def test_input_for_editing() -> None:
    """The input of a call is put into the prompt if its approval is pending and it is not too long."""

    async def body(bench: Bench) -> None:
        bench.result = {"arguments": {"command": "ls"}}
        await bench.answers.carry_out((EditInput("apr_1"),))
        assert bench.answers.pending.line_entry == LineEntry("input", "apr_1")
        bench.answers.pending.cancel_line()
        bench.result = {"arguments": {"command": "x" * MAX_EDITED_CHARACTERS}}
        await bench.answers.carry_out((EditInput("apr_1"),))
        bench.answers.pending.remove("apr_1")
        bench.result = {}
        await bench.answers.carry_out((EditInput("apr_1"),))
        assert bench.answers.pending.line_entry is None

    bench = run(body)
    assert bench.texts == ['{\n  "command": "ls"\n}']
    assert ["too long" in note for note in bench.notes] == [True]


def test_own_resolution_of_a_doubt() -> None:
    """A resolved doubt is shown as ours; a refusal is raised for the caller."""

    async def body(bench: Bench) -> None:
        bench.on_call = lambda: bench.receive(DoubtClosing("dbt_1", "bash", "done", MY_ACTOR, ""))
        await bench.answers.resolve_doubt({"indoubt_id": "dbt_1", "outcome": "done"})
        bench.result = make_refusal("indoubt_already_resolved")
        with pytest.raises(RequestRefused):
            await bench.answers.resolve_doubt({"indoubt_id": "dbt_1", "outcome": "done"})

    bench = run(body)
    assert bench.calls[0][0] == "indoubt.resolve"
    assert bench.changes[-2:] == [DoubtClosing("dbt_1", "bash", "done", by, "") for by in ("you", MY_NAME)]


def test_doubts() -> None:
    """Calls in doubt are kept until anyone resolves them; other changes pass unchanged."""
    bench = Bench()
    doubt = {"indoubt_id": "idt_1", "tool": "bash"}
    bench.answers.replace([APPROVAL], [doubt])
    assert bench.pending_ids == ["apr_1"]
    bench.receive(DoubtOpening({**doubt, "indoubt_id": "idt_2"}))
    bench.receive(DoubtClosing("idt_1", "bash", "done", "token:tok_1", ""))
    assert list(bench.answers.doubts) == ["idt_2"]
    assert bench.changes[1:] == [DoubtClosing("idt_1", "bash", "done", "token:tok_1", "")]
    bench.receive(AnswerText("x"))
    assert bench.changes[2:] == [AnswerText("x")]
