"""Asking the user: what makes a question, and what is refused with a reason that helps."""

from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.hooks.ask_user import MAX_EXPIRES_AFTER_S, AskQuestions, AskUser
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Deny, Invocation, NeedsAnswer, RunContext, Tool, ToolError
from protocol.limits.question import MAX_QUESTION_OPTIONS, MAX_QUESTIONS, MAX_QUESTIONS_BYTES
from protocol.objects.question import Option, Question
from protocol.objects.run import OpenCall
from tests.support.machine import PINNED, Machine
from tests.support.workshop import COLOR, LOOK

TOOL = AskUser().ask_user_question
NAME = TOOL.name


def use(
    *questions: dict[str, Any], tool: Tool = TOOL, others: tuple[str, ...] = (), **more: Any
) -> Invocation:
    """A call of the tool, in a message with some other calls of it before it."""
    calls = [OpenCall(call_id=name, tool=NAME, state="new") for name in (*others, "c1")]
    run = replace(Machine().run, calls=[OpenCall(call_id="c0", tool="look", state="new"), *calls])
    place = RunContext(None, run, PINNED, "/", "auto", None)  # type: ignore[arg-type]
    arguments = {"questions": list(questions), **more}
    return Invocation(place, "c1", tool, Validator().validate(tool, arguments))


async def opinion(*questions: dict[str, Any], **more: Any) -> Any:
    """What the part says of a call."""
    asked = use(*questions, **more)
    assert isinstance(asked.arguments, AskQuestions)
    return await AskUser().before_call(asked)


def refused(*questions: Any, **more: Any) -> str:
    """What the schema says of arguments that are none."""
    with pytest.raises(ToolError) as caught:
        CompositeHook((AskUser(),)).validate(TOOL, {"questions": list(questions), **more})
    return str(caught.value)


async def test_a_question() -> None:
    """It gets a key, its options ids, and a header if it has none."""
    choices = [{"label": "Red"}, {"label": "Blue", "description": "like the sky"}]
    asked = await opinion(
        {"question": "Which color?", "options": choices, "multi_select": True},
        {"question": "Why?", "header": "Reason"},
        expires_after_s=1.5,
    )
    assert asked == NeedsAnswer(
        [
            Question(
                question="Which color?",
                key="q1",
                header="Question 1",
                options=[
                    Option(option_id="o1", label="Red"),
                    Option(option_id="o2", label="Blue", description="like the sky"),
                ],
                multi_select=True,
            ),
            Question(question="Why?", key="q2", header="Reason"),
        ],
        1500,
    )


async def test_it_waits_for_good_unless_it_says_how_long() -> None:
    """No time given is no end; the shortest time is one."""
    assert (await opinion(COLOR)).expires_after_ms is None
    assert (await opinion(COLOR, expires_after_s=0.0001)).expires_after_ms == 1


async def test_other_tools_are_none_of_its_business() -> None:
    """About them it has no opinion."""
    call = Invocation(use(COLOR).context, "c1", LOOK, {"path": "/a"})
    assert await AskUser().before_call(call) is None


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ([{"question": "Why?"}, {"question": " why? "}], "occurs twice"),
        ([{"question": "  "}], "needs words"),
        ([{"question": "Which?", "options": [{"label": "A"}, {"label": "a"}]}], "option of 'Which?'"),
        ([{"question": "Which?", "options": [{"label": " "}]}], "needs words"),
        ([{"question": "Which?", "multi_select": True}], "no options"),
        ([{"question": "x" * MAX_QUESTIONS_BYTES}], str(MAX_QUESTIONS_BYTES)),
    ],
)
async def test_questions_that_make_no_sense(questions: list[dict[str, Any]], says: str) -> None:
    """They are denied, and the model is told what to mend."""
    denied = await opinion(*questions)
    assert isinstance(denied, Deny)
    assert says in denied.note


async def test_a_refusal_is_short_however_long_the_question() -> None:
    """What is quoted of it is its beginning."""
    long = {"question": "x" * 100_000}
    denied = await opinion(long, long)
    assert isinstance(denied, Deny)
    assert len(denied.note) < 300


async def test_a_message_asks_once() -> None:
    """Of several calls the first asks; the others are told to ask everything together."""
    assert isinstance(await opinion(COLOR), NeedsAnswer)
    denied = await opinion(COLOR, others=("c9",))
    assert isinstance(denied, Deny)
    assert "once in a message" in denied.note


@pytest.mark.parametrize(
    ("questions", "more", "says"),
    [
        ([], {}, "questions"),
        ([COLOR] * (MAX_QUESTIONS + 1), {}, "questions"),
        ([{"header": "x"}], {}, "question"),
        ([{"question": ""}], {}, "question"),
        (
            [{"question": "x", "options": [{"label": str(n)} for n in range(MAX_QUESTION_OPTIONS + 1)]}],
            {},
            "opt",
        ),
        ([{"question": "x", "options": ["Red"]}], {}, "options"),
        ([COLOR], {"expires_after_s": 0}, "expires_after_s"),
        ([COLOR], {"expires_after_s": MAX_EXPIRES_AFTER_S + 1}, "expires_after_s"),
    ],
)
def test_arguments_that_the_schema_refuses(questions: list[Any], more: dict[str, Any], says: str) -> None:
    """One to four questions with at most eight options each, and a time that is one."""
    assert says in refused(*questions, **more)


async def test_it_is_never_dispatched() -> None:
    """A person's answer is the result; the tool has none of its own."""
    with pytest.raises(ToolError, match="by a person"):
        await AskUser().dispatch(use(COLOR))


def test_the_tool_may_be_used_while_planning() -> None:
    """It changes nothing but what the daemon keeps, and asks nobody whether it may ask."""
    assert (TOOL.kind, TOOL.default, TOOL.in_plan, TOOL.name) == ("coordinate", "allow", True, NAME)
