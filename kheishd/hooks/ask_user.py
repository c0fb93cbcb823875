"""Asking the user: a tool whose result is a person's answer.

The run waits without a task, over restarts, until somebody answers, declines, or the question expires. A
message asks once: what is to be known together is asked together, on one screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from kheishd.kernel.hook import Deny, Invocation, NeedsAnswer, Opinion, Outcome, SubHook, Tool, ToolError
from protocol.limits.question import MAX_QUESTION_OPTIONS, MAX_QUESTIONS, MAX_QUESTIONS_BYTES
from protocol.objects.question import Option, Question

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME: Final = "ask_user_question"

# A year: what nobody answers in that time is asked for no longer.
MAX_EXPIRES_AFTER_S: Final = 365 * 24 * 3600

MAX_QUOTED_CHARACTERS: Final = 80

_OPTION: Final = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "minLength": 1, "description": "What is chosen: one to five words."},
        "description": {"type": "string", "description": "What choosing it means."},
    },
    "required": ["label"],
    "additionalProperties": False,
}
_QUESTION: Final = {
    "type": "object",
    "properties": {
        "header": {"type": "string", "description": "A word or two that name the question."},
        "question": {"type": "string", "minLength": 1, "description": "The question, whole."},
        "options": {
            "type": "array",
            "maxItems": MAX_QUESTION_OPTIONS,
            "items": _OPTION,
            "description": "What can be chosen; the user may always write a text instead. None: a text.",
        },
        "multi_select": {"type": "boolean", "description": "Whether several options can be chosen."},
    },
    "required": ["question"],
    "additionalProperties": False,
}
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_QUESTIONS,
            "items": _QUESTION,
            "description": "Everything there is to ask now.",
        },
        "expires_after_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_EXPIRES_AFTER_S,
            "description": "How long to wait for an answer. When it is over, the run is cancelled.",
        },
    },
    "required": ["questions"],
    "additionalProperties": False,
}

TOOL: Final = Tool(
    name=NAME,
    description=(
        "Ask the user what only the user can know or decide: a preference, a choice between ways, a missing "
        "fact. Work waits until there is an answer, so ask all of it at once and nothing that can be found "
        "out. The result is JSON: the chosen options and the user's text, or that the user declined."
    ),
    schema=_SCHEMA,
    kind="coordinate",
    in_plan=True,
)


class _Asked(Struct, frozen=True):
    """A question as the model writes it."""

    question: str
    header: str = ""
    options: list["_Choice"] = []
    multi_select: bool = False


class _Choice(Struct, frozen=True):
    label: str
    description: str = ""


class AskUser(SubHook):
    """Offers ``ask_user_question``."""

    name = "ask_user"
    tools = (TOOL,)

    async def before_call(self, use: Invocation) -> Opinion | None:
        """A call of the tool is a question to a person; one that makes no sense is refused, saying why."""
        if use.tool.name != NAME:
            return None
        others = [call.call_id for call in use.context.run.calls if call.tool == NAME]
        if others and others[0] != use.call_id:
            return Deny(f"{NAME} is called once in a message: ask everything in one call")
        try:
            return NeedsAnswer(_questions(use.arguments["questions"]), _expires_after_ms(use))
        except ToolError as error:
            return Deny(str(error))

    async def dispatch(self, use: Invocation) -> Outcome:
        """Never asked for: the answer of a person is the result."""
        raise ToolError("a question is answered by a person")


def _expires_after_ms(use: Invocation) -> int | None:
    seconds = use.arguments.get("expires_after_s")
    return None if seconds is None else max(round(seconds * 1000), 1)


def _questions(written: list[dict[str, Any]]) -> list[Question]:
    """The questions with a key each, and an id for each option. Errors: ToolError."""
    asked = msgspec.convert(written, list[_Asked])
    _distinct((each.question for each in asked), "question")
    for each in asked:
        _distinct((choice.label for choice in each.options), f"option of '{_brief(each.question)}'")
        if each.multi_select and not each.options:
            raise ToolError(f"'{_brief(each.question)}' has no options to choose several of")
    questions = [
        Question(
            question=each.question,
            key=f"q{number}",
            header=each.header or f"Question {number}",
            options=[
                Option(option_id=f"o{place}", label=choice.label, description=choice.description)
                for place, choice in enumerate(each.options, 1)
            ],
            multi_select=each.multi_select,
        )
        for number, each in enumerate(asked, 1)
    ]
    size = len(msgspec.json.encode(questions))
    if size > MAX_QUESTIONS_BYTES:
        raise ToolError(f"the questions take {size} bytes; the limit is {MAX_QUESTIONS_BYTES}: ask shorter")
    return questions


def _brief(text: str) -> str:
    """A text as it is quoted: what the model wrote may be long."""
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


def _distinct(texts: Iterable[str], what: str) -> None:
    """Errors: ToolError for an empty text, or for one that differs from another in case at most."""
    seen: set[str] = set()
    for text in texts:
        folded = " ".join(text.split()).casefold()
        if not folded:
            raise ToolError(f"each {what} needs words")
        if folded in seen:
            raise ToolError(f"each {what} must differ from the others: '{_brief(text)}' is there twice")
        seen.add(folded)
