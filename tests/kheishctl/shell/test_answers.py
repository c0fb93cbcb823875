"""What the person answers, carried out; and who answered what."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kheishctl.client import ConnectionLost, Failure, RequestRefused
from kheishctl.contract import Json
from kheishctl.render.pieces import (
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    DoubtClosing,
    DoubtOpening,
    Piece,
    QuestionClosing,
    QuestionOpening,
)
from kheishctl.shell.answering import MAX_EDITED_CHARACTERS, Answering
from kheishctl.shell.waiting import Edit, Reply, Resolve, Typing
from tests.support.daemons import PATIENCE_S

APPROVAL = {"approval_id": "apr_1", "run_id": "run_1", "tool": "bash"}
QUESTION = {"question_id": "qst_1", "questions": [{"key": "k", "question": "Why?"}]}
ALLOW = Resolve(({"approval_id": "apr_1", "decision": "allow"},))
ME = f"uid:{os.getuid()}"
MY_NAME = pwd.getpwuid(os.getuid()).pw_name


def closed(by: str = ME, how: str = "allow") -> ApprovalClosing:
    """The approval was answered."""
    return ApprovalClosing("apr_1", "bash", "ls", how, by)


class Room:
    """A daemon that answers when it is told to, and all that was shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Json]] = []
        self.shown: list[Piece] = []
        self.notes: list[str] = []
        self.edited: list[str] = []
        self.answer: Any = {}
        self.before: Callable[[], object] = lambda: None
        self.answering = Answering(self._call, self.shown.append, self._note, self.edited.append)

    async def _call(self, method: str, params: Json) -> Any:
        self.asked.append((method, params))
        self.before()
        if isinstance(self.answer, Failure):
            raise self.answer
        return self.answer

    def _note(self, text: str, style: str) -> None:
        self.notes.append(text)

    def hears(self, piece: Piece) -> None:
        """Something is told by the journal."""
        now = self.answering.heard(piece)
        if now is not None:
            self.shown.append(now)

    @property
    def waits(self) -> list[str]:
        """The ids of what waits."""
        return [item.key for item in self.answering.waiting.items]


def sit(body: Callable[[Room], Awaitable[None]]) -> Room:
    """Run a body in a room where an approval and a question wait."""

    async def run() -> Room:
        room = Room()
        room.hears(ApprovalOpening(APPROVAL))
        room.hears(QuestionOpening(QUESTION))
        async with asyncio.timeout(PATIENCE_S):
            await body(room)
        return room

    return asyncio.run(run())


def refusal(reason: str) -> RequestRefused:
    """A refusal for some reason."""
    return RequestRefused({"code": 1409, "message": f"because of {reason}", "data": {"reason": reason}})


@pytest.mark.parametrize("early", [True, False], ids=["told before the answer", "told after it"])
def test_our_answer_is_ours(early: bool) -> None:
    """Whether the journal is faster than the answer or not; it is told once."""

    async def body(room: Room) -> None:
        if early:
            room.before = lambda: room.hears(closed())
        room.answering.waiting.resolve([room.answering.waiting.items[0]], "allow")
        await room.answering.carry_out((ALLOW,))
        if not early:
            room.hears(closed())

    room = sit(body)
    [(method, params)] = room.asked
    assert method == "approval.resolve"
    assert params["resolutions"] == list(ALLOW.resolutions)
    assert params["idempotency_key"]
    assert room.shown[-1] == closed("you")
    assert room.waits == ["qst_1"]


def test_somebody_else_was_first() -> None:
    """It is told who, by the name of the user; the refusal says nothing more."""

    async def body(room: Room) -> None:
        room.before = lambda: room.hears(closed())
        room.answer = refusal("approval_already_resolved")
        await room.answering.carry_out((ALLOW,))

    room = sit(body)
    assert room.shown[-1] == closed(MY_NAME)
    assert room.notes == []
    assert room.waits == ["qst_1"]


def test_one_of_several_was_answered() -> None:
    """Then none of them is, and that is said."""
    both = Resolve((*ALLOW.resolutions, {"approval_id": "apr_2", "decision": "allow"}))

    async def body(room: Room) -> None:
        room.answer = refusal("approval_already_resolved")
        await room.answering.carry_out((both,))

    room = sit(body)
    assert room.notes == ["one of them was answered meanwhile, so none of them is yet"]
    assert room.waits == ["apr_1", "qst_1"]


@pytest.mark.parametrize("failure", [refusal("storage_full"), ConnectionLost("the connection is lost")])
def test_an_answer_that_fails(failure: Failure) -> None:
    """It is said why, and it waits on."""

    async def body(room: Room) -> None:
        room.answer = failure
        room.answering.waiting.resolve([room.answering.waiting.items[0]], "allow")
        await room.answering.carry_out((ALLOW,))

    room = sit(body)
    assert room.notes == [str(failure)]
    assert room.waits == ["apr_1", "qst_1"]


def test_what_lapses_was_answered_by_nobody() -> None:
    """Not by us either, though we had answered in the same moment."""

    async def body(room: Room) -> None:
        await room.answering.carry_out((ALLOW,))
        room.hears(closed("", "withdrawn"))

    assert sit(body).shown[-1] == closed("", "withdrawn")


def test_a_question() -> None:
    """Its answer is sent whole, and is ours."""
    answers = ({"key": "k", "text": "so"},)

    async def body(room: Room) -> None:
        await room.answering.carry_out((Reply("qst_1", answers),))
        room.hears(QuestionClosing("qst_1", "answered", ME, "so"))

    room = sit(body)
    [(method, params)] = room.asked
    assert method == "question.answer"
    assert (params["answers"], params["declined"]) == (list(answers), False)
    assert room.shown[-1] == QuestionClosing("qst_1", "answered", "you", "so")


def test_an_input_to_be_changed() -> None:
    """It is fetched and put where it can be changed, if it still waits and is not too long."""

    async def body(room: Room) -> None:
        room.answer = {"arguments": {"command": "ls"}}
        await room.answering.carry_out((Edit("apr_1"),))
        assert room.answering.waiting.typing == Typing("input", "apr_1")
        room.answering.waiting.leave()
        room.answer = {"arguments": {"command": "x" * MAX_EDITED_CHARACTERS}}
        await room.answering.carry_out((Edit("apr_1"),))
        room.answering.waiting.drop("apr_1")
        room.answer = {}
        await room.answering.carry_out((Edit("apr_1"),))
        assert room.answering.waiting.typing is None

    room = sit(body)
    assert room.edited == ['{\n  "command": "ls"\n}']
    assert ["too long" in note for note in room.notes] == [True]


def test_a_doubt_that_we_resolve() -> None:
    """It is ours, as an answer is; what is refused is the caller's to tell."""

    async def body(room: Room) -> None:
        room.before = lambda: room.hears(DoubtClosing("dbt_1", "bash", "done", ME, ""))
        await room.answering.resolve({"indoubt_id": "dbt_1", "outcome": "done"})
        room.answer = refusal("indoubt_already_resolved")
        with pytest.raises(RequestRefused):
            await room.answering.resolve({"indoubt_id": "dbt_1", "outcome": "done"})

    room = sit(body)
    assert room.asked[0][0] == "indoubt.resolve"
    assert room.shown[-2:] == [DoubtClosing("dbt_1", "bash", "done", by, "") for by in ("you", MY_NAME)]


def test_doubts() -> None:
    """They are kept until they are settled, by whomever."""
    room = Room()
    doubt = {"indoubt_id": "idt_1", "tool": "bash"}
    room.answering.waits([APPROVAL], [doubt])
    assert room.waits == ["apr_1"]
    room.hears(DoubtOpening({**doubt, "indoubt_id": "idt_2"}))
    room.hears(DoubtClosing("idt_1", "bash", "done", "token:tok_1", ""))
    assert list(room.answering.doubts) == ["idt_2"]
    assert room.shown[1:] == [DoubtClosing("idt_1", "bash", "done", "token:tok_1", "")]
    room.hears(AnswerText("x"))
    assert room.shown[2:] == [AnswerText("x")]
