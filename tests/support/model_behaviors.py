"""Behaviors of the model server, selected by the name of the requested model.

======================================= ==========================================================
``echo``                                answers ``echo: `` and the last text of the user, word by word
``slow:<ms>[:<n>]``                     n pieces (5) with a pause before each
``chunks:<n>[:<burst>]``                n pieces of one word; ``burst`` of them (1) to one write
``long:<bytes>``                        an answer of that many bytes, in pieces of 1 KiB
``split:<n>[:<text>]``                  echoes in writes of n bytes, cutting lines and characters
``thinking``                            reasons, then answers
``repeat:<n>``                          repeats its key as thought and as text, in pieces of n characters
``tools[:<name>:<json>]``               calls a tool; answers once it has the result
``reads:<n>:<name>:<json>``             calls a tool, and reports n tokens of the prompt
``two-tools``                           calls two tools at once
``orders``                              obeys ``/call <tool> <json>`` lines; ``/then`` separates answers
``length``, ``refusal``                 ends for that reason
``cut[:<n>]``                           closes the connection after n pieces (2)
``malformed``                           an event that is not JSON
``error-event[:<kind>]``                an error object inside the stream
``no-done``                             ends without ``[DONE]`` or ``message_stop``
``stays-open``                          the same, and the connection stays open
``heartbeats``                          events without data in between
``too-large:<bytes>``                   calls a tool with that many bytes of arguments; then answers
``per-minute``                          429 in Google's words, once; the body says how long to wait
``unpaid``                              429, the account has no credit left
``pauses``                              pauses its turn after a word, once; then ``echo``
``searches``                            searches by a tool of its own, pauses, and goes on with its own blocks
``refuses``                             refuses without a text, once; then ``echo``
``says-nothing[:<n>]``                  n answers (all) with reasoning only for each model, then ``echo``
``gzip-error``                          400, the transcript is too long, in a compressed body
``comments``                            comments, unknown fields and unknown events in between
``nonstream``                           one JSON object instead of a stream
``html``, ``empty``, ``redirect``       200 with a page, 200 with nothing, 302 elsewhere
``garbage``                             bytes that are not HTTP
``hang``, ``hang-mid``                  nothing at all; a piece and then nothing
``status:<code>[:retry=<v>;retry-ms=<v>]`` an error; ``retry`` is ``Retry-After``
``context``                             400, the transcript is too long
``fits:<bytes>``                        the same inside a stream for larger requests, else summary or ``echo``
``allows:<n>``                          refuses an output limit above n, else ``echo``
``rejects:<field>[:<status>]``          refuses requests with that field, else ``echo``; names it with 400
``rejects-late:<field>``                the same inside a stream, without a status; names the field
``rejects-order``                       refuses a user's message after a result, else ``tools``
``binds``                               thinks and obeys; refuses its thoughts behind a changed prompt
``rejects-breakpoints``                 refuses cache breakpoints, else ``echo``
``wants-signatures``                    fails in Google's stream if no call is signed, else ``echo``
``rejects-thinking``                    refuses any configuration of thinking in Google's words, else ``echo``
``rejects-reasoning``                   refuses encrypted reasoning, else reasons and echoes
``reasons-first:<n>``                   reasons for n tokens, then answers, within the request's limit
``n-failures-then-ok:<n>:<code>[:<tag>]`` n errors for each tag, then ``echo``
``file:<name>``                         the recorded stream of that name, unchanged
======================================= ==========================================================
"""

import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from tests.support.model_wire import Anthropic, Call, Move, Say, Stop, Think, Wire

STREAMS = Path(__file__).parents[1] / "kheishd" / "providers" / "streams"


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and headers of an answer. Without ``length`` its body is sent in HTTP chunks."""

    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of that many seconds, without end if infinite."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of the connection."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that are sent unchanged, outside of HTTP."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the body, sent by one write as one HTTP chunk."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of the body, sent by one write, each an HTTP chunk."""

    data: tuple[bytes, ...]


Step = Head | Pause | Cut | Raw | Piece | Pieces


@dataclass(frozen=True, slots=True)
class Prompt:
    """The parts of a request that a behavior reads."""

    model: str
    text: str
    has_result: bool
    secret: str
    wire: Wire
    failures: Counter[str]
    answered: int = 0
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request."""
        fields: dict[str, Any] = msgspec.json.decode(self.body)
        return fields


def steps(prompt: Prompt) -> Iterator[Step]:
    """Return the server's steps for one request. An unknown model is a 404, as with a real provider."""
    name, _, rest = prompt.model.partition(":")
    behavior = BEHAVIORS.get(name)
    if behavior is None:
        message = f"The model `{prompt.model}` does not exist"
        return _error(404, prompt.wire.error("model_not_found", message))
    return behavior(prompt, rest)


def _error(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[Step]:
    yield Head(status, "application/json", headers or {}, len(body))
    yield Piece(body)


def _stream(prompt: Prompt, moves: list[Move], pause: float = 0) -> Iterator[Step]:
    yield Head()
    yield Piece(prompt.wire.start(prompt.model))
    for move in moves:
        if pause and not isinstance(move, Stop):
            yield Pause(pause)
        yield Piece(prompt.wire.move(prompt.model, move))


def words(text: str) -> list[Move]:
    """Yield a text as one step per word, with its spaces."""
    head, *tail = text.split(" ")
    return [Say(head), *(Say(f" {word}") for word in tail)]


def _echo_moves(prompt: Prompt) -> list[Move]:
    return [*words(f"echo: {prompt.text}"), Stop()]


def _echo(prompt: Prompt, rest: str) -> Iterator[Step]:
    return _stream(prompt, _echo_moves(prompt))


def _slow(prompt: Prompt, rest: str) -> Iterator[Step]:
    pause, _, count = rest.partition(":")
    pieces: list[Move] = [Say(f"piece{n} ") for n in range(1, int(count or 5) + 1)]
    return _stream(prompt, [*pieces, Stop()], float(pause) / 1000)


def _chunks(prompt: Prompt, rest: str) -> Iterator[Step]:
    count, _, burst = rest.partition(":")
    size = int(burst or 1)
    bodies = [prompt.wire.start(prompt.model)]
    bodies += [prompt.wire.move(prompt.model, Say(f"word{n} ")) for n in range(1, int(count) + 1)]
    bodies.append(prompt.wire.move(prompt.model, Stop(output_tokens=int(count))))
    yield Head()
    for start in range(0, len(bodies), size):
        yield Pieces(tuple(bodies[start : start + size]))


def _long(prompt: Prompt, rest: str) -> Iterator[Step]:
    size = int(rest)
    full, last = divmod(size, 1024)
    pieces: list[Move] = [Say("x" * 1024) for _ in range(full)]
    return _stream(prompt, [*pieces, Say("x" * last), Stop()])


def _split(prompt: Prompt, rest: str) -> Iterator[Step]:
    size, _, text = rest.partition(":")
    moves = [*words(text), Stop()] if text else _echo_moves(prompt)
    body = prompt.wire.start(prompt.model) + b"".join(prompt.wire.move(prompt.model, move) for move in moves)
    yield Head()
    for start in range(0, len(body), int(size)):
        yield Piece(body[start : start + int(size)])
        yield Pause(0)


def _thinking(prompt: Prompt, rest: str) -> Iterator[Step]:
    return _stream(prompt, [Think("Let me "), Think("see."), Say("It is "), Say("42."), Stop()])


def _repeat(prompt: Prompt, rest: str) -> Iterator[Step]:
    text = f"it is {prompt.secret}, yes, {prompt.secret[:3]}"
    pieces = [text[start : start + int(rest)] for start in range(0, len(text), int(rest))]
    return _stream(prompt, [*map(Think, pieces), *map(Say, pieces), Stop()])


def _tools(prompt: Prompt, rest: str) -> Iterator[Step]:
    if prompt.has_result:
        return _echo(prompt, rest)
    name, _, arguments = (rest or 'get_weather:{"location": "San Francisco, CA"}').partition(":")
    return _stream(prompt, [Say("I will look."), Call("call_abc123", name, arguments), Stop("tool_calls")])


def _reads(prompt: Prompt, rest: str) -> Iterator[Step]:
    """Call a tool, and report that many tokens of the prompt."""
    count, name, arguments = rest.split(":", 2)
    return _stream(prompt, [Call("call_a", name, arguments), Stop("tool_calls", input_tokens=int(count))])


def _two_tools(prompt: Prompt, rest: str) -> Iterator[Step]:
    calls: list[Move] = [Call("call_a", "first", '{"n": 1}'), Call("call_b", "second", "{}")]
    return _stream(prompt, [*calls, Stop("tool_calls")])


def _orders(prompt: Prompt, rest: str) -> Iterator[Step]:
    """Repeat the text of one part of the message and make its ``/call`` lines calls."""
    return _stream(prompt, _obey(prompt))


def _obey(prompt: Prompt) -> list[Move]:
    if "<conversation>" in prompt.text:
        return [Say("A summary of what was said."), Stop()]
    parts = re.split(r"^/then$", prompt.text, flags=re.MULTILINE)
    lines = parts[prompt.answered].strip().splitlines() if prompt.answered < len(parts) else ["that is all"]
    calls: list[Move] = []
    texts = []
    for line in lines:
        match = re.fullmatch(r"/call (\S+) (.*)", line)
        if match is None:
            texts.append(line)
        else:
            calls.append(Call(f"call_{prompt.answered}_{len(calls)}", match[1], match[2]))
    text = [Say("\n".join(texts))] if texts else []
    return [*text, *calls, Stop("tool_calls" if calls else "end")]


UNBOUND = (
    "messages.1.content.0: Invalid `signature` in `thinking` block. The block is bound to a different "
    "conversation. Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "
    '"drop_block". That setting requires the `thinking-binding-controls-2026-08-01` value in the '
    "`anthropic-beta` header."
)


def _binds(prompt: Prompt, rest: str) -> Iterator[Step]:
    """Think and obey, with signatures of all that came before."""
    sent = prompt.fields
    may_drop = sent.get("thinking", {}).get("block_binding") == {"prefix_mismatch_behavior": "drop_block"}
    if may_drop and "thinking-binding-controls-2026-08-01" not in prompt.headers.get("anthropic-beta", ""):
        return _error(400, prompt.wire.error("invalid_request_error", "block_binding: not permitted"))
    signatures = ["".join(_find_signatures(message)) for message in sent["messages"]]
    expected = [_sign(sent, index) if signature else "" for index, signature in enumerate(signatures)]
    if not may_drop and signatures != expected:
        return _error(400, prompt.wire.error("invalid_request_error", UNBOUND))
    assert isinstance(prompt.wire, Anthropic)
    prompt.wire.signature = _sign(sent, len(signatures))
    return _stream(prompt, [Think("Hm."), *_obey(prompt)])


def _find_signatures(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    return [block["signature"] for block in content if block["type"] == "thinking"]


def _sign(sent: dict[str, Any], end: int) -> str:
    prefix = [sent.get("system"), sent.get("tools"), *sent["messages"][:end]]
    # Breakpoints are no part of the prompt.
    text = msgspec.json.encode(prefix).replace(b',"cache_control":{"type":"ephemeral"}', b"")
    return hashlib.sha256(text).hexdigest()


def _length(prompt: Prompt, rest: str) -> Iterator[Step]:
    return _stream(prompt, [Say("cut sho"), Stop("length")])


def _refusal(prompt: Prompt, rest: str) -> Iterator[Step]:
    return _stream(prompt, [Say("I would"), Stop("refusal")])


def _cut(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield from _stream(prompt, [Say(f"piece{n} ") for n in range(1, int(rest or 2) + 1)])
    yield Cut()


def _malformed(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield from _stream(prompt, [Say("fine ")])
    yield Piece(b'event: content_block_delta\ndata: {"choices": [}\n\n')


def _error_event(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield from _stream(prompt, [Say("fine ")])
    yield Piece(prompt.wire.error_event(rest or "overloaded_error", f"Overloaded ({prompt.secret})"))


def _no_done(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield from _stream(prompt, [Say("fine")])
    end = prompt.wire.move(prompt.model, Stop())
    yield Piece(end.removesuffix(b"data: [DONE]\n\n").partition(b"event: message_stop")[0])


def _stays_open(prompt: Prompt, rest: str) -> Iterator[Step]:
    end = prompt.wire.move(prompt.model, Stop()).removesuffix(b"data: [DONE]\n\n")
    said = prompt.wire.start(prompt.model) + prompt.wire.move(prompt.model, Say("fine"))
    yield Head()
    yield Piece(said + end.partition(b"event: message_stop")[0])
    yield Pause(float("inf"))


def _heartbeats(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield Head()
    yield Piece(b"data:\n\n" + prompt.wire.start(prompt.model))
    for move in _echo_moves(prompt):
        yield Piece(b"data: \n\n" + prompt.wire.move(prompt.model, move))


def _says_nothing(prompt: Prompt, rest: str) -> Iterator[Step]:
    prompt.failures[prompt.model] += 1
    if rest and prompt.failures[prompt.model] > int(rest):
        return _echo(prompt, "")
    return _stream(prompt, [Think("hm"), Stop()])


def _too_large(prompt: Prompt, rest: str) -> Iterator[Step]:
    if prompt.has_result:
        return _stream(prompt, [Say("in parts, then"), Stop()])
    arguments = '{"path": "a", "content": "' + "x" * int(rest) + '"}'
    return _stream(prompt, [Call("call_a", "write_file", arguments), Stop("tool_calls")])


def _refuses(prompt: Prompt, rest: str) -> Iterator[Step]:
    prompt.failures[prompt.model] += 1
    if prompt.failures[prompt.model] > 1:
        return _echo(prompt, "")
    return _stream(prompt, [Stop("refusal")])


def _per_minute(prompt: Prompt, rest: str) -> Iterator[Step]:
    prompt.failures[prompt.model] += 1
    if prompt.failures[prompt.model] > 1:
        return _echo(prompt, "")
    message = "You exceeded your current quota, please check your plan. Please retry in 20ms."
    return _error(429, prompt.wire.error("RESOURCE_EXHAUSTED", message))


def _unpaid(prompt: Prompt, rest: str) -> Iterator[Step]:
    message = "You exceeded your current quota, please check your plan and billing details."
    return _error(429, prompt.wire.error("insufficient_quota", message), {"retry-after": "1"})


def _pauses(prompt: Prompt, rest: str) -> Iterator[Step]:
    prompt.failures[prompt.model] += 1
    if prompt.failures[prompt.model] > 1:
        return _echo(prompt, "")
    return _stream(prompt, [Say("one "), Stop("pause")])


SEARCH_CALLS = tuple(
    {"type": "server_tool_use", "id": f"srv_{n}", "name": "web_search", "input": {"query": f"q{n}"}}
    for n in (1, 2)
)
SEARCH_RESULTS = tuple(
    {
        "type": "web_search_tool_result",
        "tool_use_id": f"srv_{n}",
        "content": [{"type": "web_search_result", "url": "http://a", "encrypted_content": f"c2VhbA=={n}"}],
    }
    for n in (1, 2)
)
SEARCH_START: list[dict[str, Any]] = [
    {"type": "text", "text": "I look. "},
    SEARCH_CALLS[0],
    SEARCH_RESULTS[0],
    SEARCH_CALLS[1],
]
SEARCH_END: list[dict[str, Any]] = [
    SEARCH_RESULTS[1],
    {"type": "text", "text": "It is so.", "citations": [{"type": "web_search_result_location"}]},
]
"""The content of an answer before and after its pause."""


def _searches(prompt: Prompt, rest: str) -> Iterator[Step]:
    contents = [m["content"] for m in prompt.fields["messages"] if m["role"] == "assistant"]
    is_paused = prompt.fields["messages"][-1]["role"] == "assistant"
    complete = SEARCH_START + (SEARCH_END if contents and not is_paused else [])
    if contents and contents[0] != complete:
        return _error(400, prompt.wire.error("invalid_request_error", f"changed content: {contents[0]}"))
    if contents and not is_paused:
        return _echo(prompt, "")
    content, reason = (SEARCH_END, "end_turn") if is_paused else (SEARCH_START, "pause_turn")
    body = {"type": "message", "content": content, "stop_reason": reason, "usage": {"input_tokens": 5}}
    return iter((Head(200, "application/json"), Piece(msgspec.json.encode(body))))


def _gzip_error(prompt: Prompt, rest: str) -> Iterator[Step]:
    body = gzip.compress(prompt.wire.error("invalid_request_error", "prompt is too long: 9 > 8"))
    return _error(400, body, {"content-encoding": "gzip"})


def _comments(prompt: Prompt, rest: str) -> Iterator[Step]:
    noise = (
        b': OPENROUTER PROCESSING\n\nid: 7\nretry: 100\nfoo: bar\n\nevent: news\ndata: {"type":"news"}\n\n'
    )
    yield Head()
    yield Piece(noise)
    for move in _echo_moves(prompt):
        yield Piece(noise + prompt.wire.move(prompt.model, move))


def _nonstream(prompt: Prompt, rest: str) -> Iterator[Step]:
    body = prompt.wire.whole(prompt.model, _echo_moves(prompt))
    yield Head(200, "application/json", {}, len(body))
    yield Piece(body)


def _html(prompt: Prompt, rest: str) -> Iterator[Step]:
    body = b"<html><body>Welcome to the portal</body></html>"
    yield Head(200, "text/html", {}, len(body))
    yield Piece(body)


def _empty(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield Head(200, "text/event-stream", {}, 0)


def _redirect(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield Head(302, "text/plain", {"location": "http://elsewhere.invalid/v1/chat/completions"}, 0)


def _garbage(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield Raw(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
    yield Cut()


def _hang(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield Pause(float("inf"))


def _hang_mid(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield from _stream(prompt, [Say("so far ")])
    yield Pause(float("inf"))


def _status(prompt: Prompt, rest: str) -> Iterator[Step]:
    code, *extras = rest.split(":", 1)
    headers: dict[str, str] = {}
    for extra in extras[0].split(";") if extras else ():
        key, _, value = extra.partition("=")
        headers["retry-after-ms" if key == "retry-ms" else "retry-after"] = value
    # Real providers repeat a part of the refused key; this one repeats all of it, to test the redaction.
    message = f"Refused with {code}. The credential was: {prompt.secret}"
    return _error(int(code), prompt.wire.error(f"error_{code}", message), headers)


def _context(prompt: Prompt, rest: str) -> Iterator[Step]:
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    )
    return _error(400, prompt.wire.error("context_length_exceeded", message))


def _fits(prompt: Prompt, rest: str) -> Iterator[Step]:
    if len(prompt.body) > int(rest):
        message = f"prompt is too long: {len(prompt.body)} tokens > {rest} maximum"
        return iter((Head(), Piece(prompt.wire.error_event("invalid_request_error", message))))
    is_summary = "<conversation>" in prompt.text
    return _stream(prompt, [Say("A summary."), Stop()]) if is_summary else _echo(prompt, "")


def _failures(prompt: Prompt, rest: str) -> Iterator[Step]:
    count, code = rest.split(":")[:2]
    prompt.failures[rest] += 1
    return _status(prompt, code) if prompt.failures[rest] <= int(count) else _echo(prompt, "")


def _rejects(prompt: Prompt, rest: str) -> Iterator[Step]:
    name, _, status = rest.partition(":")
    if name not in prompt.fields:
        is_summary = "<conversation>" in prompt.text
        return _stream(prompt, [Say("A summary."), Stop()]) if is_summary else _echo(prompt, "")
    if status == "422":
        return _error(422, prompt.wire.error("unprocessable", "Unprocessable Entity"))
    other = "max_completion_tokens" if name == "max_tokens" else "max_tokens"
    hint = f" Use '{other}' instead." if "max" in name else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
    return _error(400, prompt.wire.error("invalid_request_error", message))


def _allows(prompt: Prompt, rest: str) -> Iterator[Step]:
    limits = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    limit = next((prompt.fields[name] for name in limits if name in prompt.fields), 0)
    if limit <= int(rest):
        return _echo(prompt, "")
    message = f"max_tokens: {limit} > {rest}, which is the maximum allowed number of output tokens for m"
    return _error(400, prompt.wire.error("invalid_request_error", message))


def _rejects_late(prompt: Prompt, rest: str) -> Iterator[Step]:
    if rest not in prompt.fields:
        return _echo(prompt, "")
    message = f"Unsupported parameter: '{rest}' is not supported with this model."
    error = msgspec.json.encode({"error": {"message": message}})
    return iter((Head(), Piece(b": waiting\n\n"), Piece(b"data: " + error + b"\n\n")))


def _rejects_order(prompt: Prompt, rest: str) -> Iterator[Step]:
    roles = [message["role"] for message in prompt.fields["messages"]]
    if ("tool", "user") in pairwise(roles):
        message = "Unexpected role 'user' after role 'tool'"
        return _error(400, prompt.wire.error("invalid_request_message_order", message))
    return _tools(prompt, "look:{}") if "tool" not in roles else _echo(prompt, "")


def _rejects_breakpoints(prompt: Prompt, rest: str) -> Iterator[Step]:
    if b'"cache_control"' not in prompt.body:
        return _echo(prompt, "")
    message = "messages.0.content.0.cache_control: Extra inputs are not permitted"
    return _error(400, prompt.wire.error("invalid_request_error", message))


def _wants_signatures(prompt: Prompt, rest: str) -> Iterator[Step]:
    if b"thoughtSignature" in prompt.body:
        return _echo(prompt, "")
    failed = msgspec.json.encode({"candidates": [{"finishReason": "MISSING_THOUGHT_SIGNATURE"}]})
    return iter((Head(), Piece(b"data: " + failed + b"\r\n\r\n")))


def _rejects_thinking(prompt: Prompt, rest: str) -> Iterator[Step]:
    thinking = prompt.fields.get("generationConfig", {}).get("thinkingConfig")
    if thinking is None:
        return _echo(prompt, "")
    words = "is not enabled for models/m" if "includeThoughts" in thinking else "level is not supported"
    return _error(400, prompt.wire.error("INVALID_ARGUMENT", f"Thinking {words}"))


def _rejects_reasoning(prompt: Prompt, rest: str) -> Iterator[Step]:
    if b'"encrypted_content"' not in prompt.body:
        return _stream(prompt, [Think("hm"), *_echo_moves(prompt)])
    message = "The encrypted content for item rs_0 could not be verified."
    return _error(400, prompt.wire.error("invalid_request_error", message))


def _reasons_first(prompt: Prompt, rest: str) -> Iterator[Step]:
    limit = prompt.fields.get("generationConfig", {}).get("maxOutputTokens", 0)
    limit = prompt.fields.get("max_tokens", limit)
    if limit <= int(rest):
        return _stream(prompt, [Think("Let me see."), Stop("length", output_tokens=limit)])
    return _stream(prompt, [Think("Let me see."), Say("A short title"), Stop(output_tokens=int(rest) + 3)])


def _file(prompt: Prompt, rest: str) -> Iterator[Step]:
    yield Head()
    yield Piece((STREAMS / rest).read_bytes())


BEHAVIORS = {
    "echo": _echo,
    "slow": _slow,
    "chunks": _chunks,
    "long": _long,
    "split": _split,
    "thinking": _thinking,
    "repeat": _repeat,
    "tools": _tools,
    "reads": _reads,
    "two-tools": _two_tools,
    "orders": _orders,
    "length": _length,
    "refusal": _refusal,
    "cut": _cut,
    "malformed": _malformed,
    "error-event": _error_event,
    "no-done": _no_done,
    "stays-open": _stays_open,
    "heartbeats": _heartbeats,
    "too-large": _too_large,
    "refuses": _refuses,
    "per-minute": _per_minute,
    "pauses": _pauses,
    "unpaid": _unpaid,
    "searches": _searches,
    "says-nothing": _says_nothing,
    "gzip-error": _gzip_error,
    "comments": _comments,
    "nonstream": _nonstream,
    "html": _html,
    "empty": _empty,
    "redirect": _redirect,
    "garbage": _garbage,
    "hang": _hang,
    "hang-mid": _hang_mid,
    "status": _status,
    "context": _context,
    "fits": _fits,
    "n-failures-then-ok": _failures,
    "allows": _allows,
    "rejects": _rejects,
    "rejects-late": _rejects_late,
    "rejects-order": _rejects_order,
    "rejects-breakpoints": _rejects_breakpoints,
    "rejects-reasoning": _rejects_reasoning,
    "wants-signatures": _wants_signatures,
    "rejects-thinking": _rejects_thinking,
    "binds": _binds,
    "reasons-first": _reasons_first,
    "file": _file,
}
