"""The test of a route: one small call with one tool, judged step by step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct
from msgspec.structs import replace

from kheishd.core.run.budget import calculate_cost
from kheishd.kernel.hook import Tool
from kheishd.kernel.route import chain_of, keys_of, pin_route
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, ModelRequest
from protocol.objects.route import CheckName, KeyTest, RouteCheck, RouteTest
from protocol.objects.run import Pinned, PinnedRoute
from protocol.structs import fields_of
from protocol.transcript import Message, Text, ToolCall, Usage, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishd.kernel.runtime import ModelCaller, RouteSpec

WORD: Final = "kheish"
TOOL: Final = Tool(
    name="report_word",
    description="Report one word.",
    schema={
        "type": "object",
        "properties": {"word": {"type": "string", "description": "The word."}},
        "required": ["word"],
    },
    kind="read",
)
INSTRUCTIONS: Final = "You test a connection. Call the tool as the user asks, once, and write nothing."
QUESTION: Final = f"Call the tool {TOOL.name} with the word '{WORD}'."

# Enough for models that reason before the call.
MAX_TRIAL_TOKENS: Final = 2048

# The part of an answer that a note quotes.
MAX_QUOTED_CHARACTERS: Final = 80

LOCAL_PRESETS: Final = ("llamacpp", "lmstudio", "ollama", "vllm")
"""The servers whose operator sets the size of the context.

Ollama gives a model 4,096 tokens on most machines, and drops the beginning of a longer prompt without an
error: first the tools. Their test therefore has a prompt of the size that agents have.

Source: https://docs.ollama.com/context-length
"""

FILLER: Final = "\n".join(f"{number}. This line only takes up room." for number in range(1, 641))
"""About 6,400 tokens, which cost nothing on a machine of one's own."""

# Fewer read tokens mean that the prompt was truncated, whatever the model's tokenizer is.
MIN_READ_TOKENS: Final = 4_500

ORDER: Final[tuple[CheckName, ...]] = ("connect", "authenticate", "stream", "tool_call", "usage", "context")
_REFUSALS: Final = ("credential_missing", "unauthorized")


class Trial(Struct):
    """The events of one call: what arrived, and the failure that ended it."""

    connected: bool = False
    pieces: int = 0
    answer: ModelAnswer | None = None
    failure: ModelFailure | None = None

    def failed_check(self) -> CheckName:
        """Return the step that the failure belongs to."""
        failure = self.failure
        if self.connected or failure is None:
            return "stream"
        if failure.reason in _REFUSALS:
            return "authenticate"
        return "connect" if failure.status is None else "stream"

    def checks(self, route: RouteSpec) -> list[RouteCheck]:
        """Return all steps in order. Steps after a failed one are skipped."""
        if self.answer is not None:
            return [*_checks_before(route, "stream"), *_judge(route, self.answer, self.pieces)]
        failed = self.failed_check()
        message = self.failure.message if self.failure is not None else "the call ended without an answer"
        missing = self.failure is not None and self.failure.reason == "credential_missing"
        earlier = [] if missing else _checks_before(route, failed)
        if missing:
            earlier = [RouteCheck("connect", "skipped", "without its credential nothing is sent")]
        order = ORDER if route.preset in LOCAL_PRESETS else ORDER[:-1]
        later = order[order.index(failed) + 1 :]
        return [
            *earlier,
            RouteCheck(failed, "failed", message),
            *(RouteCheck(name, "skipped") for name in later),
        ]


async def try_chain(models: ModelCaller, routes: Mapping[str, RouteSpec], spec: RouteSpec) -> RouteTest:
    """Test a route with each of its keys, and the routes of its fallback, side by side."""
    candidates = [candidate for route in (spec, *chain_of(routes, spec)) for candidate in keys_of(route)]
    tests: dict[int, RouteTest] = {}

    async def test(index: int, candidate: RouteSpec) -> None:
        tests[index] = await try_route(models, candidate)

    async with trio.open_nursery() as nursery:
        for index, candidate in enumerate(candidates):
            nursery.start_soon(test, index, candidate)
    named = [
        replace(tests[index], auth_ref=candidate.auth_ref)
        if len(keys_of(routes.get(candidate.route_id, spec))) > 1
        else tests[index]
        for index, candidate in enumerate(candidates)
    ]
    others = [KeyTest(**fields_of(KeyTest, result)) for result in named[1:]]
    return replace(named[0], ok=all(result.ok for result in named), others=others)


async def try_route(models: ModelCaller, route: RouteSpec) -> RouteTest:
    """Make one small call to a route and return its result, whatever it is."""
    started = time.monotonic()
    request = ModelRequest(
        pinned=Pinned(**fields_of(PinnedRoute, pin_route(route))),
        instructions=f"{INSTRUCTIONS}\n\n{FILLER}" if route.preset in LOCAL_PRESETS else INSTRUCTIONS,
        messages=[Message("user", [Text(QUESTION)])],
        tools=(TOOL,),
        max_answer_tokens=MAX_TRIAL_TOKENS,
    )
    trial = Trial()
    try:
        async with models.ask(request) as events:
            trial.connected = True
            async for event in events:
                if isinstance(event, ModelAnswer):
                    trial.answer = event
                else:
                    trial.pieces += 1
    except ModelFailure as failure:
        trial.failure = failure
    checks = trial.checks(route)
    usage = trial.answer.usage if trial.answer is not None else Usage()
    return RouteTest(
        route_id=route.route_id,
        ok=all(check.status != "failed" for check in checks),
        checks=checks,
        duration_ms=round((time.monotonic() - started) * 1000),
        usage=usage,
        cost=calculate_cost(usage, route.prices),
        model=trial.answer.model if trial.answer is not None else None,
    )


def _checks_before(route: RouteSpec, name: CheckName) -> list[RouteCheck]:
    """Return the successful steps before another one."""
    checks = [
        RouteCheck("connect", "ok"),
        RouteCheck("authenticate", "ok")
        if route.auth_ref is not None
        else RouteCheck("authenticate", "skipped", "the route has no auth_ref"),
    ]
    return checks[: ORDER.index(name)]


def _judge(route: RouteSpec, answer: ModelAnswer, pieces: int) -> list[RouteCheck]:
    """Return the steps of a complete answer."""
    calls = [item for item in answer.items if isinstance(item, ToolCall) and item.name == TOOL.name]
    text = " ".join(text_of(answer.items).split())[:MAX_QUOTED_CHARACTERS]
    if any(isinstance(call.arguments.get("word"), str) for call in calls):
        tool_call = RouteCheck("tool_call", "ok")
    elif calls:
        tool_call = RouteCheck("tool_call", "failed", "the arguments of the call are not those of the tool")
    elif route.driver == "offline":
        tool_call = RouteCheck("tool_call", "skipped", "the offline stand-in calls a tool only by directive")
    elif answer.stop_reason == "length":
        tool_call = RouteCheck(
            "tool_call", "failed", f"{MAX_TRIAL_TOKENS} tokens were used up before the call"
        )
    else:
        note = "the model did not call the tool" + (f"; it wrote: {text}" if text else "")
        tool_call = RouteCheck("tool_call", "failed", note)
    if answer.usage.output_tokens:
        usage = RouteCheck("usage", "ok")
    else:
        usage = RouteCheck(
            "usage",
            "failed",
            "the server reports no tokens, so budgets and costs have no effect on this route",
        )
    note = f"pieces of text: {pieces}" if pieces else ""
    context = [_judge_context(answer.usage.input_tokens)] if route.preset in LOCAL_PRESETS else []
    return [RouteCheck("stream", "ok", note), tool_call, usage, *context]


def _judge_context(read_tokens: int) -> RouteCheck:
    """Return the step that checks whether the server read the whole prompt."""
    if not read_tokens:
        return RouteCheck("context", "skipped", "the server reports no tokens")
    if read_tokens >= MIN_READ_TOKENS:
        return RouteCheck("context", "ok", f"the server read {read_tokens} tokens")
    return RouteCheck(
        "context",
        "failed",
        f"the server read only {read_tokens} of about 6000 tokens, and dropped the rest: raise the size of "
        "its context (Ollama: OLLAMA_CONTEXT_LENGTH)",
    )
