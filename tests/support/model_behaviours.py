"""What the model server does, chosen by the name of the model that is asked for.

======================================= ==========================================================
``echo``                                says ``echo: `` and the last text of the user, in words
``slow:<ms>[:<n>]``                     n pieces (5) with a pause before each
``chunks:<n>[:<burst>]``                n pieces of one word; ``burst`` of them (1) to one write
``long:<bytes>``                        an answer of that many bytes, in pieces of 1 KiB
``split:<n>[:<text>]``                  echoes in writes of n bytes, cutting lines and characters
``thinking``                            reasons, then answers
``repeat:<n>``                          thinks and says the key that it was sent, in pieces of n characters
``tools[:<name>:<json>]``               asks for a tool; answers once a result is there
``two-tools``                           asks for two tools at once
``orders``                              obeys ``/call <tool> <json>`` lines; ``/then`` ends an answer's
``length``, ``refusal``                 ends for that reason
``cut[:<n>]``                           closes the connection after n pieces (2)
``malformed``                           an event that is not JSON
``error-event[:<kind>]``                an error object inside the stream
``no-done``                             ends without ``[DONE]`` or ``message_stop``
``stays-open``                          the same, and the connection stays open
``heartbeats``                          events without data in between
``says-nothing[:<n>]``                  n answers (all) with reasoning only for each model, then ``echo``
``gzip-error``                          400, the transcript is too long, in a compressed body
``comments``                            comments, unknown fields and unknown events in between
``nonstream``                           one JSON object instead of a stream
``html``, ``empty``, ``redirect``       200 with a page, 200 with nothing, 302 elsewhere
``garbage``                             bytes that are not HTTP
``hang``, ``hang-mid``                  nothing at all; a piece and then nothing
``status:<code>[:retry=<v>;retry-ms=<v>]`` an error; ``retry`` is ``Retry-After``
``context``                             400, the transcript is too long
``n-failures-then-ok:<n>:<code>[:<tag>]`` n errors for each tag, then ``echo``
``file:<name>``                         the recorded stream of that name, as it is
======================================= ==========================================================
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.model_wire import Call, Move, Say, Stop, Think, Wire

STREAMS = Path(__file__).parents[1] / "kheishd" / "providers" / "streams"


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and headers of an answer. Without ``length`` its body goes out in HTTP chunks."""

    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing for so many seconds; without end if infinite."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is closed here."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that go out exactly so, outside of HTTP."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the body, each sent by one write and as one HTTP chunk."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of the body, each an HTTP chunk, that are sent by one write."""

    data: tuple[bytes, ...]


Step = Head | Pause | Cut | Raw | Piece | Pieces


@dataclass(frozen=True, slots=True)
class Asked:
    """What a behaviour may look at."""

    model: str
    said: str
    has_result: bool
    secret: str
    wire: Wire
    failures: Counter[str]
    answered: int = 0


def steps(asked: Asked) -> Iterator[Step]:
    """Return the server's steps for one request. An unknown model is a 404, as with a real provider."""
    name, _, rest = asked.model.partition(":")
    behaviour = BEHAVIOURS.get(name)
    if behaviour is None:
        message = f"The model `{asked.model}` does not exist"
        return _error(404, asked.wire.error("model_not_found", message))
    return behaviour(asked, rest)


def _error(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[Step]:
    yield Head(status, "application/json", headers or {}, len(body))
    yield Piece(body)


def _stream(asked: Asked, moves: list[Move], pause: float = 0) -> Iterator[Step]:
    yield Head()
    yield Piece(asked.wire.start(asked.model))
    for move in moves:
        if pause and not isinstance(move, Stop):
            yield Pause(pause)
        yield Piece(asked.wire.move(asked.model, move))


def words(text: str) -> list[Move]:
    """Yield a text as one step per word, with its spaces."""
    head, *tail = text.split(" ")
    return [Say(head), *(Say(f" {word}") for word in tail)]


def _echoed(asked: Asked) -> list[Move]:
    return [*words(f"echo: {asked.said}"), Stop()]


def _echo(asked: Asked, rest: str) -> Iterator[Step]:
    return _stream(asked, _echoed(asked))


def _slow(asked: Asked, rest: str) -> Iterator[Step]:
    pause, _, count = rest.partition(":")
    pieces: list[Move] = [Say(f"piece{n} ") for n in range(1, int(count or 5) + 1)]
    return _stream(asked, [*pieces, Stop()], float(pause) / 1000)


def _chunks(asked: Asked, rest: str) -> Iterator[Step]:
    count, _, burst = rest.partition(":")
    size = int(burst or 1)
    bodies = [asked.wire.start(asked.model)]
    bodies += [asked.wire.move(asked.model, Say(f"word{n} ")) for n in range(1, int(count) + 1)]
    bodies.append(asked.wire.move(asked.model, Stop(output_tokens=int(count))))
    yield Head()
    for start in range(0, len(bodies), size):
        yield Pieces(tuple(bodies[start : start + size]))


def _long(asked: Asked, rest: str) -> Iterator[Step]:
    size = int(rest)
    full, last = divmod(size, 1024)
    pieces: list[Move] = [Say("x" * 1024) for _ in range(full)]
    return _stream(asked, [*pieces, Say("x" * last), Stop()])


def _split(asked: Asked, rest: str) -> Iterator[Step]:
    size, _, text = rest.partition(":")
    moves = [*words(text), Stop()] if text else _echoed(asked)
    body = asked.wire.start(asked.model) + b"".join(asked.wire.move(asked.model, move) for move in moves)
    yield Head()
    for start in range(0, len(body), int(size)):
        yield Piece(body[start : start + int(size)])
        yield Pause(0)


def _thinking(asked: Asked, rest: str) -> Iterator[Step]:
    return _stream(asked, [Think("Let me "), Think("see."), Say("It is "), Say("42."), Stop()])


def _repeat(asked: Asked, rest: str) -> Iterator[Step]:
    text = f"it is {asked.secret}, yes, {asked.secret[:3]}"
    pieces = [text[start : start + int(rest)] for start in range(0, len(text), int(rest))]
    return _stream(asked, [*map(Think, pieces), *map(Say, pieces), Stop()])


def _tools(asked: Asked, rest: str) -> Iterator[Step]:
    if asked.has_result:
        return _echo(asked, rest)
    name, _, arguments = (rest or 'get_weather:{"location": "San Francisco, CA"}').partition(":")
    return _stream(asked, [Say("I will look."), Call("call_abc123", name, arguments), Stop("tool_calls")])


def _two_tools(asked: Asked, rest: str) -> Iterator[Step]:
    calls: list[Move] = [Call("call_a", "first", '{"n": 1}'), Call("call_b", "second", "{}")]
    return _stream(asked, [*calls, Stop("tool_calls")])


def _orders(asked: Asked, rest: str) -> Iterator[Step]:
    """Each part of what was said is for one answer: its /call lines are the calls, the rest is repeated."""
    if "<conversation>" in asked.said:
        return _stream(asked, [Say("A summary of what was said."), Stop()])
    parts = re.split(r"^/then$", asked.said, flags=re.MULTILINE)
    lines = parts[asked.answered].strip().splitlines() if asked.answered < len(parts) else ["that is all"]
    calls: list[Move] = []
    said = []
    for line in lines:
        found = re.fullmatch(r"/call (\S+) (.*)", line)
        if found is None:
            said.append(line)
        else:
            calls.append(Call(f"call_{asked.answered}_{len(calls)}", found[1], found[2]))
    text = [Say("\n".join(said))] if said else []
    return _stream(asked, [*text, *calls, Stop("tool_calls" if calls else "end")])


def _length(asked: Asked, rest: str) -> Iterator[Step]:
    return _stream(asked, [Say("cut sho"), Stop("length")])


def _refusal(asked: Asked, rest: str) -> Iterator[Step]:
    return _stream(asked, [Say("I would"), Stop("refusal")])


def _cut(asked: Asked, rest: str) -> Iterator[Step]:
    yield from _stream(asked, [Say(f"piece{n} ") for n in range(1, int(rest or 2) + 1)])
    yield Cut()


def _malformed(asked: Asked, rest: str) -> Iterator[Step]:
    yield from _stream(asked, [Say("fine ")])
    yield Piece(b'event: content_block_delta\ndata: {"choices": [}\n\n')


def _error_event(asked: Asked, rest: str) -> Iterator[Step]:
    yield from _stream(asked, [Say("fine ")])
    yield Piece(asked.wire.error_event(rest or "overloaded_error", f"Overloaded ({asked.secret})"))


def _no_done(asked: Asked, rest: str) -> Iterator[Step]:
    yield from _stream(asked, [Say("fine")])
    end = asked.wire.move(asked.model, Stop())
    yield Piece(end.removesuffix(b"data: [DONE]\n\n").partition(b"event: message_stop")[0])


def _stays_open(asked: Asked, rest: str) -> Iterator[Step]:
    end = asked.wire.move(asked.model, Stop()).removesuffix(b"data: [DONE]\n\n")
    said = asked.wire.start(asked.model) + asked.wire.move(asked.model, Say("fine"))
    yield Head()
    yield Piece(said + end.partition(b"event: message_stop")[0])
    yield Pause(float("inf"))


def _heartbeats(asked: Asked, rest: str) -> Iterator[Step]:
    yield Head()
    yield Piece(b"data:\n\n" + asked.wire.start(asked.model))
    for move in _echoed(asked):
        yield Piece(b"data: \n\n" + asked.wire.move(asked.model, move))


def _says_nothing(asked: Asked, rest: str) -> Iterator[Step]:
    asked.failures[asked.model] += 1
    if rest and asked.failures[asked.model] > int(rest):
        return _echo(asked, "")
    return _stream(asked, [Think("hm"), Stop()])


def _gzip_error(asked: Asked, rest: str) -> Iterator[Step]:
    body = gzip.compress(asked.wire.error("invalid_request_error", "prompt is too long: 9 > 8"))
    return _error(400, body, {"content-encoding": "gzip"})


def _comments(asked: Asked, rest: str) -> Iterator[Step]:
    noise = (
        b': OPENROUTER PROCESSING\n\nid: 7\nretry: 100\nfoo: bar\n\nevent: news\ndata: {"type":"news"}\n\n'
    )
    yield Head()
    yield Piece(noise)
    for move in _echoed(asked):
        yield Piece(noise + asked.wire.move(asked.model, move))


def _nonstream(asked: Asked, rest: str) -> Iterator[Step]:
    body = asked.wire.whole(asked.model, _echoed(asked))
    yield Head(200, "application/json", {}, len(body))
    yield Piece(body)


def _html(asked: Asked, rest: str) -> Iterator[Step]:
    body = b"<html><body>Welcome to the portal</body></html>"
    yield Head(200, "text/html", {}, len(body))
    yield Piece(body)


def _empty(asked: Asked, rest: str) -> Iterator[Step]:
    yield Head(200, "text/event-stream", {}, 0)


def _redirect(asked: Asked, rest: str) -> Iterator[Step]:
    yield Head(302, "text/plain", {"location": "http://elsewhere.invalid/v1/chat/completions"}, 0)


def _garbage(asked: Asked, rest: str) -> Iterator[Step]:
    yield Raw(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
    yield Cut()


def _hang(asked: Asked, rest: str) -> Iterator[Step]:
    yield Pause(float("inf"))


def _hang_mid(asked: Asked, rest: str) -> Iterator[Step]:
    yield from _stream(asked, [Say("so far ")])
    yield Pause(float("inf"))


def _status(asked: Asked, rest: str) -> Iterator[Step]:
    code, *extras = rest.split(":", 1)
    headers: dict[str, str] = {}
    for extra in extras[0].split(";") if extras else ():
        key, _, value = extra.partition("=")
        headers["retry-after-ms" if key == "retry-ms" else "retry-after"] = value
    # Real providers name the key that was refused; ours names it whole, so that tests see it taken out.
    message = f"Refused with {code}. The credential was: {asked.secret}"
    return _error(int(code), asked.wire.error(f"error_{code}", message), headers)


def _context(asked: Asked, rest: str) -> Iterator[Step]:
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    )
    return _error(400, asked.wire.error("context_length_exceeded", message))


def _failures(asked: Asked, rest: str) -> Iterator[Step]:
    count, code = rest.split(":")[:2]
    asked.failures[rest] += 1
    return _status(asked, code) if asked.failures[rest] <= int(count) else _echo(asked, "")


def _file(asked: Asked, rest: str) -> Iterator[Step]:
    yield Head()
    yield Piece((STREAMS / rest).read_bytes())


BEHAVIOURS = {
    "echo": _echo,
    "slow": _slow,
    "chunks": _chunks,
    "long": _long,
    "split": _split,
    "thinking": _thinking,
    "repeat": _repeat,
    "tools": _tools,
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
    "n-failures-then-ok": _failures,
    "file": _file,
}
