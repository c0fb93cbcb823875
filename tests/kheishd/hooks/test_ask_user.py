"""Asking the user: how a question is made, and the errors that help the model."""

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
    """Return a call of the tool, in a message with some earlier calls of it."""
    calls = [OpenCall(call_id=name, tool=NAME, state="new") for name in (*others, "c1")]
    run = replace(Machine().run, calls=[OpenCall(call_id="c0", tool="look", state="new"), *calls])
    context = RunContext(None, run, PINNED, "/", "auto", None)  # type: ignore[arg-type]
    arguments = {"questions": list(questions), **more}
    return Invocation(context, "c1", tool, Validator().validate(tool, arguments))


async def opinion(*questions: dict[str, Any], **more: Any) -> Any:
    """Return the sub-hook's opinion about a call."""
    request = use(*questions, **more)
    assert isinstance(request.arguments, AskQuestions)
    return await AskUser().before_call(request)


def refused(*questions: Any, **more: Any) -> str:
    """Return the error of invalid arguments."""
    with pytest.raises(ToolError) as caught:
        CompositeHook((AskUser(),)).validate(TOOL, {"questions": list(questions), **more})
    return str(caught.value)


async def test_a_question() -> None:
    """A question gets a key, its options get ids, and a missing header is filled in."""
    choices = [{"label": "Red"}, {"label": "Blue", "description": "like the sky"}]
    request = await opinion(
        {"question": "Which color?", "options": choices, "multi_select": True},
        {"question": "Why?", "header": "Reason"},
        expires_after_s=1.5,
    )
    assert request == NeedsAnswer(
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
    """Without an expiry a question does not expire; the shortest expiry is a millisecond."""
    assert (await opinion(COLOR)).expires_after_ms is None
    assert (await opinion(COLOR, expires_after_s=0.0001)).expires_after_ms == 1


async def test_other_tools_are_none_of_its_business() -> None:
    """There is no opinion about other tools."""
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
    """An inconsistent question is denied, with the reason for the model."""
    denied = await opinion(*questions)
    assert isinstance(denied, Deny)
    assert says in denied.note


async def test_a_refusal_is_short_however_long_the_question() -> None:
    """A long question is quoted only in part."""
    long = {"question": "x" * 100_000}
    denied = await opinion(long, long)
    assert isinstance(denied, Deny)
    assert len(denied.note) < 300


async def test_a_message_asks_once() -> None:
    """Of several calls in a message the first one asks, and the others are denied."""
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
    """The numbers of questions and options, and the expiry, have limits."""
    assert says in refused(*questions, **more)


async def test_it_is_never_dispatched() -> None:
    """A call is never dispatched: a person's answer is its result."""
    with pytest.raises(ToolError, match="by a person"):
        await AskUser().dispatch(use(COLOR))


def test_the_tool_may_be_used_while_planning() -> None:
    """The tool changes nothing, so plan mode allows it without approval."""
    assert (TOOL.kind, TOOL.default, TOOL.in_plan, TOOL.name) == ("coordinate", "allow", True, NAME)
