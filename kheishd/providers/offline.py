"""The built-in stand-in for a model: deterministic, needs no network and no key.

It says plainly what it is, shows that it remembers the conversation and repeats what it was told.
Lines that begin with a slash are obeyed, so that everything around a model can be tried without one:

======================== =====================================================================
``/call <tool> <json>``  asks for a tool; several lines are one batch
``/then``                what follows is for the next answer, once these tools have returned
``/slow <n> <ms>``       gives the answer in n pieces with a pause before each
``/answer <text>``       gives this text as the answer, and nothing else
``/long <n>``            adds n words to the answer
``/think <text>``        reasons first
``/fail <reason>``       fails as a provider would: ``rate_limited``, ``unauthorized``, ...
======================== =====================================================================
"""

import re
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec
import trio
from msgspec import Struct

from kheishd.kernel.runtime import (
    ModelAnswer,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
)
from kheishd.providers.failures import RETRYABLE
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.rpc.wire import storage_problem_of
from protocol.transcript import Item, Message, Text, Thinking, ToolCall, ToolResult, Usage, text_of

WHAT_IT_IS = (
    "This is the offline stand-in, not a model: it needs no network and no key, "
    "and it only repeats what it is told."
)

# What one line may ask for: an answer of ten thousand pieces, or a pause of ten minutes, is enough to
# try out every limit there is. More is taken down to these.
MAX_PIECES = 10_000
MAX_PAUSE_MS = 600_000
MAX_QUOTE_CHARACTERS = 2_000
SUMMARY_WORDS = 40

_THEN = re.compile(r"^/then[ \t]*$", re.MULTILINE)
_SLOW = re.compile(r"/slow (\d{1,9}) (\d{1,9})")
_LONG = re.compile(r"/long (\d{1,9})")
_ANSWER = re.compile(r"/answer (.+)")
_THINK = re.compile(r"/think (.+)")
_FAIL = re.compile(r"/fail ([a-z_]{1,64})")
_CALL = re.compile(r"/call ([A-Za-z0-9_.:-]{1,128})(?: (.*))?")


class Orders(Struct):
    """What the slash lines of one input ask for, and the text that is left."""

    said: str = ""
    pieces: int = 0
    pause_ms: int = 0
    words: int = 0
    answer: str | None = None
    thought: str = ""
    failure: str | None = None
    calls: list[tuple[str, dict[str, Any]]] = []
    complaints: list[str] = []


async def answer(request: ModelRequest) -> AsyncGenerator[ModelEvent]:
    """The events of one answer.

    Shape:  deltas, then one Answer whose items say the same.
    Errors: ModelFailure where the input asks for one.
    """
    if request.purpose != "answer":
        yield _said_of(request)
        return
    orders = read_orders(_ordered(request.messages))
    if orders.failure is not None:
        raise ModelFailure(
            orders.failure,
            "the offline stand-in was told to fail",
            retryable=orders.failure in RETRYABLE,
        )
    full = _compose(request.messages, orders)
    text = cut(full, MAX_ANSWER_BYTES)
    if orders.thought:
        yield ThinkingDelta(orders.thought)
    for piece in _pieces(text, orders.pieces):
        if orders.pieces:
            await trio.sleep(orders.pause_ms / 1000)
        if piece:
            yield TextDelta(piece)
    calls = _calls(orders, request.messages)
    items: list[Item] = [Thinking(orders.thought)] if orders.thought else []
    items += [Text(text), *calls]
    stop = "tool_calls" if calls else "end" if text == full else "length"
    yield ModelAnswer(items, _usage(request, orders.thought, text), stop, request.pinned.model)


def _said_of(request: ModelRequest) -> ModelAnswer:
    """What stands for a summary, or a title: orders in what is summed up are not obeyed."""
    words = text_of(request.messages[0].items).split() if request.messages else []
    if request.purpose == "title":
        text = " ".join(words[:5])
    else:
        shown = " ".join(words[:SUMMARY_WORDS])
        text = (
            f"The offline stand-in cannot sum up. It was shown {len(words)} words, which begin: “{shown} …”"
        )
    usage = Usage(input_tokens=len(words), output_tokens=len(text.split()))
    return ModelAnswer([Text(text)], usage, "end", request.pinned.model)


def read_orders(text: str) -> Orders:
    """Take the slash lines out of a text. A slash line that is none of ours is ordinary text."""
    orders, said = Orders(), []
    for line in text.splitlines():
        if not (line.startswith("/") and _obey(orders, line.strip())):
            said.append(line)
    orders.said = "\n".join(said).strip()
    return orders


def _obey(orders: Orders, line: str) -> bool:
    if found := _SLOW.fullmatch(line):
        orders.pieces = max(1, min(int(found[1]), MAX_PIECES))
        orders.pause_ms = min(int(found[2]), MAX_PAUSE_MS)
    elif found := _LONG.fullmatch(line):
        orders.words = min(int(found[1]), MAX_ANSWER_BYTES)
    elif found := _ANSWER.fullmatch(line):
        orders.answer = found[1]
    elif found := _THINK.fullmatch(line):
        orders.thought = found[1]
    elif found := _FAIL.fullmatch(line):
        orders.failure = found[1]
    elif found := _CALL.fullmatch(line):
        _read_call(orders, found[1], found[2] or "{}")
    else:
        # What comes after it is read when its turn has come.
        return _THEN.fullmatch(line) is not None
    return True


def _read_call(orders: Orders, name: str, arguments: str) -> None:
    problem: str | None = "are no JSON object"
    try:
        decoded = msgspec.json.decode(arguments, type=dict[str, Any])
        problem = storage_problem_of(decoded)
    except (msgspec.DecodeError, RecursionError):
        pass
    if problem is None:
        orders.calls.append((name, decoded))
    else:
        orders.complaints.append(f"I cannot call {name}: the arguments that follow its name {problem}.")


def _ordered(messages: list[Message]) -> str:
    """The part of what the user said last that is for this answer: the first, or one after a ``/then``.

    Which one it is, is how often was answered since; so nothing that was obeyed is obeyed again.
    """
    answered = 0
    for message in reversed(messages):
        if message.role == "user":
            parts = _THEN.split(text_of(message.items))
            return parts[answered] if answered < len(parts) else ""
        answered += message.role == "assistant"
    return ""


def _compose(messages: list[Message], orders: Orders) -> str:
    if orders.answer is not None:
        return orders.answer
    results = _results(messages)
    if results:
        lines = [WHAT_IT_IS, *(_result_line(result) for result in results)]
    else:
        lines = [WHAT_IT_IS, _remembered(messages)]
        if orders.said:
            lines.append(f"You say: {_quote(orders.said)}")
    lines += orders.complaints
    if orders.words:
        lines.append(" ".join(f"word{n}" for n in range(1, orders.words + 1)))
    return "\n".join(lines)


def _results(messages: list[Message]) -> list[ToolResult]:
    """The tool results at the end of the transcript, in order."""
    found: list[ToolResult] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        found[:0] = [item for item in message.items if isinstance(item, ToolResult)]
    return found


def _result_line(result: ToolResult) -> str:
    verb = "failed with" if result.is_error else "gave"
    return f"The tool {result.name} {verb}: {_quote(result.text)}"


def _remembered(messages: list[Message]) -> str:
    said = [read_orders(text_of(message.items)).said for message in messages if message.role == "user"]
    line = f"This is message {len(said)} of our conversation"
    if len(said) < 2:
        return f"{line}."
    return f"{line}; before it you said: {_quote(said[-2]) if said[-2] else 'nothing but orders'}"


def _quote(text: str) -> str:
    if len(text) > MAX_QUOTE_CHARACTERS:
        text = f"{text[:MAX_QUOTE_CHARACTERS]}…"
    return f"“{text}”"


def _pieces(text: str, count: int) -> Iterable[str]:
    """The text in ``count`` pieces of about the same length; in lines where no count is given."""
    if not count:
        return text.splitlines(keepends=True)
    # Every piece exists, even where there are more of them than characters: their pauses were asked for.
    length, bounds = len(text), range(count + 1)
    edges = [length * n // count for n in bounds]
    return (text[edges[n] : edges[n + 1]] for n in range(count))


def _calls(orders: Orders, messages: list[Message]) -> list[ToolCall]:
    """The calls asked for, numbered on from those that the transcript already holds."""
    before = sum(isinstance(item, ToolCall) for message in messages for item in message.items)
    return [ToolCall(f"call_{before + n}", name, args) for n, (name, args) in enumerate(orders.calls, 1)]


def _usage(request: ModelRequest, thought: str, text: str) -> Usage:
    """Words stand for tokens."""
    said = sum(len(text_of(message.items).split()) for message in request.messages)
    reasoned = len(thought.split())
    return Usage(
        input_tokens=said + len(request.instructions.split()),
        output_tokens=len(text.split()) + reasoned,
        reasoning_tokens=reasoned,
    )


def cut(text: str, max_bytes: int) -> str:
    """As much of the text as fits into ``max_bytes`` bytes of UTF-8, never half a character."""
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")
