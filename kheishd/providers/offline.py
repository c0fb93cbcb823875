"""The built-in stand-in for a model: deterministic, without network or key.

It states that it is a stand-in, shows that it remembers the conversation and repeats its input. Lines that
begin with a slash are directives, which exercise the daemon without a model:

======================== =====================================================================
``/call <tool> <json>``  calls a tool; several lines are one batch
``/then``                the following lines are for the next answer, after these tools returned
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
from protocol.rpc.wire import find_storage_problem
from protocol.transcript import Item, Message, Text, Thinking, ToolCall, ToolResult, Usage, text_of

WHAT_IT_IS = (
    "This is the offline stand-in, not a model: it needs no network and no key, "
    "and it only repeats its input."
)

# The limits of directives: ten thousand pieces or a pause of ten minutes are enough to try out every limit.
# Larger numbers are reduced to these.
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


class Directives(Struct):
    """The directives of one input, and its remaining text."""

    text: str = ""
    pieces: int = 0
    pause_ms: int = 0
    words: int = 0
    answer: str | None = None
    thought: str = ""
    failure: str | None = None
    calls: list[tuple[str, dict[str, Any]]] = []
    complaints: list[str] = []


async def answer(request: ModelRequest) -> AsyncGenerator[ModelEvent]:
    """Yield the events of one answer.

    Shape:  deltas, then one ModelAnswer with the same content.
    Errors: ModelFailure if a directive asks for one.
    """
    if request.purpose != "answer":
        yield _summarize(request)
        return
    directives = read_directives(_current_part(request.messages))
    if directives.failure is not None:
        raise ModelFailure(
            directives.failure,
            f"the directive '/fail {directives.failure}' failed this call",
            retryable=directives.failure in RETRYABLE,
        )
    full = _compose(request.messages, directives)
    text = cut(full, MAX_ANSWER_BYTES)
    if directives.thought:
        yield ThinkingDelta(directives.thought)
    for piece in _pieces(text, directives.pieces):
        if directives.pieces:
            await trio.sleep(directives.pause_ms / 1000)
        if piece:
            yield TextDelta(piece)
    # Calls are numbered after those in the transcript.
    existing = sum(isinstance(item, ToolCall) for message in request.messages for item in message.items)
    calls = [
        ToolCall(f"call_{existing + n}", name, args) for n, (name, args) in enumerate(directives.calls, 1)
    ]
    items: list[Item] = [Thinking(directives.thought)] if directives.thought else []
    items += [Text(text), *calls]
    stop = "tool_calls" if calls else "end" if text == full else "length"
    yield ModelAnswer(items, _usage(request, directives.thought, text), stop, request.pinned.model)


def _summarize(request: ModelRequest) -> ModelAnswer:
    """Return the stand-in for a summary or a title; directives in the messages have no effect."""
    words = text_of(request.messages[0].items).split() if request.messages else []
    if request.purpose == "judge":
        text = '{"verdict": "not_done", "reason": "the offline stand-in cannot judge"}'
    elif request.purpose == "title":
        text = " ".join(words[:5])
    else:
        beginning = " ".join(words[:SUMMARY_WORDS])
        text = f"The offline stand-in cannot summarize. Its input has {len(words)} words: “{beginning} …”"
    usage = Usage(input_tokens=len(words), output_tokens=len(text.split()))
    return ModelAnswer([Text(text)], usage, "end", request.pinned.model)


def read_directives(text: str) -> Directives:
    """Separate the directives from a text. An unknown slash line is ordinary text."""
    directives, lines = Directives(), []
    for line in text.splitlines():
        if not (line.startswith("/") and _apply_directive(directives, line.strip())):
            lines.append(line)
    directives.text = "\n".join(lines).strip()
    return directives


def _apply_directive(directives: Directives, line: str) -> bool:
    if match := _SLOW.fullmatch(line):
        directives.pieces = max(1, min(int(match[1]), MAX_PIECES))
        directives.pause_ms = min(int(match[2]), MAX_PAUSE_MS)
    elif match := _LONG.fullmatch(line):
        directives.words = min(int(match[1]), MAX_ANSWER_BYTES)
    elif match := _ANSWER.fullmatch(line):
        directives.answer = match[1]
    elif match := _THINK.fullmatch(line):
        directives.thought = match[1]
    elif match := _FAIL.fullmatch(line):
        directives.failure = match[1]
    elif match := _CALL.fullmatch(line):
        _read_call(directives, match[1], match[2] or "{}")
    else:
        # The lines after it are read for a later answer.
        return _THEN.fullmatch(line) is not None
    return True


def _read_call(directives: Directives, name: str, arguments: str) -> None:
    problem: str | None = "are no JSON object"
    try:
        decoded = msgspec.json.decode(arguments, type=dict[str, Any])
        problem = find_storage_problem(decoded)
    except (msgspec.DecodeError, RecursionError):
        pass
    if problem is None:
        directives.calls.append((name, decoded))
    else:
        directives.complaints.append(f"I cannot call {name}: the arguments that follow its name {problem}.")


def _current_part(messages: list[Message]) -> str:
    """Return the part of the newest user message for this answer: the first, or one after a ``/then``.

    The number of answers since then selects it, so no directive is executed twice.
    """
    answered = 0
    for message in reversed(messages):
        if message.role == "user":
            parts = _THEN.split(text_of(message.items))
            return parts[answered] if answered < len(parts) else ""
        answered += message.role == "assistant"
    return ""


def _compose(messages: list[Message], directives: Directives) -> str:
    if directives.answer is not None:
        return directives.answer
    results = _results(messages)
    if results:
        lines = [WHAT_IT_IS]
        for result in results:
            verb = "failed with" if result.is_error else "gave"
            lines.append(f"The tool {result.name} {verb}: {_quote(result.text)}")
    else:
        lines = [WHAT_IT_IS, _describe_conversation(messages)]
        if directives.text:
            lines.append(f"You say: {_quote(directives.text)}")
    lines += directives.complaints
    if directives.words:
        lines.append(" ".join(f"word{n}" for n in range(1, directives.words + 1)))
    return "\n".join(lines)


def _results(messages: list[Message]) -> list[ToolResult]:
    """Return the tool results at the end of the transcript, in order."""
    results: list[ToolResult] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        results[:0] = [item for item in message.items if isinstance(item, ToolResult)]
    return results


def _describe_conversation(messages: list[Message]) -> str:
    inputs = [read_directives(text_of(message.items)).text for message in messages if message.role == "user"]
    line = f"This is message {len(inputs)} of our conversation"
    if len(inputs) < 2:
        return f"{line}."
    return f"{line}; before it you said: {_quote(inputs[-2]) if inputs[-2] else 'only directives'}"


def _quote(text: str) -> str:
    if len(text) > MAX_QUOTE_CHARACTERS:
        text = f"{text[:MAX_QUOTE_CHARACTERS]}…"
    return f"“{text}”"


def _pieces(text: str, count: int) -> Iterable[str]:
    """Return the text in ``count`` pieces of equal length; in lines without a count."""
    if not count:
        return text.splitlines(keepends=True)
    # Every piece exists, even if there are more pieces than characters, because each has its pause.
    length, bounds = len(text), range(count + 1)
    edges = [length * n // count for n in bounds]
    return (text[edges[n] : edges[n + 1]] for n in range(count))


def _usage(request: ModelRequest, thought: str, text: str) -> Usage:
    """Return the usage, with words in place of tokens."""
    words = sum(len(text_of(message.items).split()) for message in request.messages)
    reasoned = len(thought.split())
    return Usage(
        input_tokens=words + len(request.instructions.split()),
        output_tokens=len(text.split()) + reasoned,
        reasoning_tokens=reasoned,
    )


def cut(text: str, max_bytes: int) -> str:
    """Return the longest prefix of at most ``max_bytes`` in UTF-8, never inside a character."""
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")
