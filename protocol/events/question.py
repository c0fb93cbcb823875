"""Events of questions."""

from typing import Literal

from protocol.audience import Audience
from protocol.journal.envelope import Event
from protocol.objects.question import Answer, Question
from protocol.transcript import InputOrigin


class QuestionAsked(Event, frozen=True, tag="question_asked"):
    """A call asks a person questions; the answer is its result.

    ``to_agent`` is the id of the agent that is asked instead; people may answer, too.
    """

    question_id: str
    call_id: str
    questions: list[Question]
    expires_at_ms: int | None = None
    agent: str = ""
    sender: str | None = None
    audience: Audience | None = None
    to_agent: str | None = None


class QuestionVoted(Event, frozen=True, tag="question_voted"):
    """A person of the audience answered; ``choice`` is the digest of the answer, by which votes agree."""

    question_id: str
    call_id: str
    person: str
    choice: str
    answers: list[Answer] = []
    declined: bool = False
    justification: str = ""


class QuestionAnswered(Event, frozen=True, tag="question_answered"):
    """The questions were answered or declined. ``origins`` are those of an answer that is no person's own."""

    question_id: str
    call_id: str
    answers: list[Answer] = []
    declined: bool = False
    justification: str = ""
    origins: list[InputOrigin] = []


class QuestionLapsed(Event, frozen=True, tag="question_lapsed"):
    """The questions are no longer pending."""

    question_id: str
    call_id: str
    how: Literal["cancelled", "expired", "withdrawn"]
    justification: str = ""
