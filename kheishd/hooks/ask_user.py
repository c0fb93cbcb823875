"""The tool ``ask_user_question``: its result is a person's answer.

The run waits without a worker, over restarts, until a person answers, declines, or the question expires. A
message asks once: related questions are asked together, on one screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from kheishd.kernel.hook import (
    Arguments,
    Deny,
    Invocation,
    NeedsAnswer,
    Opinion,
    Outcome,
    SubHook,
    ToolError,
    tool,
)
from protocol.limits.question import MAX_QUESTION_OPTIONS, MAX_QUESTIONS, MAX_QUESTIONS_BYTES
from protocol.objects.question import Option, Question
from protocol.text import fold_text, truncate

if TYPE_CHECKING:
    from collections.abc import Iterable

# A year: older questions have no reader.
MAX_EXPIRES_AFTER_S: Final = 365 * 24 * 3600

MAX_QUOTED_BYTES: Final = 80


class AnswerChoice(Arguments, frozen=True):
    """An option of a question, as the model writes it."""

    label: Annotated[str, Meta(min_length=1, description="The choice: one to five words.")]
    description: Annotated[str, Meta(description="The meaning of the choice.")] = ""


class UserQuestion(Arguments, frozen=True):
    """A question, as the model writes it."""

    question: Annotated[str, Meta(min_length=1, description="The complete question.")]
    header: Annotated[str, Meta(description="A word or two that name the question.")] = ""
    options: Annotated[
        list[AnswerChoice],
        Meta(
            max_length=MAX_QUESTION_OPTIONS,
            description="The choices; the user may always write a text instead.",
        ),
    ] = []
    multi_select: Annotated[bool, Meta(description="Whether several options can be chosen.")] = False


class AskQuestions(Arguments, frozen=True):
    """Arguments of ``ask_user_question``."""

    questions: Annotated[
        list[UserQuestion],
        Meta(min_length=1, max_length=MAX_QUESTIONS, description="All questions that you have now."),
    ]
    expires_after_s: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=MAX_EXPIRES_AFTER_S,
                description="How long to wait for an answer. When it is over, the run is cancelled.",
            ),
        ]
        | None
    ) = None


class AskUser(SubHook):
    """The tool that asks the user."""

    name = "ask_user"

    @tool(
        "ask_user_question",
        description="Ask the user for something that only the user can know or decide: a preference, a "
        "choice between ways, a missing fact. Work waits until there is an answer, so ask everything at "
        "once, and nothing that you can find out. The result is JSON: the chosen options and the user's "
        "text, or that the user declined.",
        kind="coordinate",
        in_plan=True,
    )
    async def ask_user_question(self, call: Invocation, arguments: AskQuestions) -> Outcome:
        """Raise ToolError: a call is never dispatched, because a person's answer is its result."""
        raise ToolError("a question is answered by a person")

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Turn a call of the tool into a question to a person. An invalid one is denied with the reason."""
        name = self.ask_user_question.name
        if call.tool.name != name:
            return None
        questions = [open_call.call_id for open_call in call.context.run.calls if open_call.tool == name]
        if questions and questions[0] != call.call_id:
            return Deny(f"{name} is called once in a message: ask everything in one call")
        arguments: AskQuestions = call.arguments
        seconds = arguments.expires_after_s
        try:
            return NeedsAnswer(
                make_questions(arguments), None if seconds is None else max(round(seconds * 1000), 1)
            )
        except ToolError as error:
            return Deny(str(error))


def make_questions(arguments: AskQuestions) -> list[Question]:
    """Return the questions with a key each, and an id for each option. Errors: ToolError."""
    _require_distinct((item.question for item in arguments.questions), "question")
    for item in arguments.questions:
        _require_distinct((choice.label for choice in item.options), f"option of '{_quote(item.question)}'")
        if item.multi_select and not item.options:
            raise ToolError(f"'{_quote(item.question)}' has no options of which several could be chosen")
    questions = [
        Question(
            question=item.question,
            key=f"q{number}",
            header=item.header or f"Question {number}",
            options=[
                Option(option_id=f"o{index}", label=choice.label, description=choice.description)
                for index, choice in enumerate(item.options, 1)
            ],
            multi_select=item.multi_select,
        )
        for number, item in enumerate(arguments.questions, 1)
    ]
    size = len(msgspec.json.encode(questions))
    if size > MAX_QUESTIONS_BYTES:
        raise ToolError(f"the questions take {size} bytes; the limit is {MAX_QUESTIONS_BYTES}: shorten them")
    return questions


def _quote(text: str) -> str:
    """Return a text for quotation: the model may have written a long one."""
    return truncate(text, MAX_QUOTED_BYTES)


def _require_distinct(texts: Iterable[str], noun: str) -> None:
    """Reject an empty text, and two that differ only in case or blanks. Errors: ToolError."""
    folded_texts: set[str] = set()
    for text in texts:
        folded = fold_text(text)
        if not folded:
            raise ToolError(f"each {noun} needs words")
        if folded in folded_texts:
            raise ToolError(f"each {noun} must differ from the others: '{_quote(text)}' occurs twice")
        folded_texts.add(folded)
