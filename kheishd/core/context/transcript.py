"""What a model is shown: the transcript folded from the journal, and how guests are framed. Pure.

An input enters the transcript when its run starts, not when it arrives: what was said while another run
was at work comes after that run's answer, so the model always reads question, answer, question, answer.

When a conversation has become long, an event says that less of it is shown from there on, and how much less;
``core/shortening.py`` has what that makes of the messages. A session that branched off another one begins
with that one's transcript.

A :class:`Transcript` can be written down as a session's checkpoint and read back; it is a cache: folding
the journal from the beginning gives the same one.
"""

import re
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from kheishd.core.context.reduction import Placed, snipped, summed_up, without_results
from protocol.events.call import ToolReturned
from protocol.events.context import ContextCompacted
from protocol.events.indoubt import IndoubtResolved
from protocol.events.run import (
    InputReceived,
    MessageAppended,
    ModelAsked,
    RunAccepted,
    RunEnded,
    RunStarted,
    Steered,
)
from protocol.events.session import SessionCreated, TranscriptImported
from protocol.events.task import TaskEnded, TaskStalled
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown
from protocol.transcript import InputItem, Item, Message, Text, ToolCall, ToolResult

_TAG: Final = re.compile(r"<(?=\s*/?\s*from\b)", re.IGNORECASE)

CHECKPOINT_EVENTS = 64
"""Events after which a new checkpoint is worth its bytes: about ten text turns."""


class Measured(Struct, frozen=True, array_like=True):
    """What a model counted: the tokens of everything ``speaker`` was shown for an answer, and of that answer.

    ``cursor`` is that of the answer; ``speaker`` is None for the session's own agent.
    """

    cursor: int
    tokens: int
    speaker: str | None


class Transcript(Struct):
    """What a session's models are shown, up to ``cursor``, and the inputs whose runs have not started.

    ``inputs`` is by input id, ``runs`` from run id to input id. ``calls`` are the calls of the newest
    message, from id to tool, while not all of them have their ``results``: those enter together, in the
    order of the calls. ``said`` is what is to be read before the next answer: it enters once no call is open.
    ``measured`` is the newest count there is of what is shown.
    """

    cursor: int = 0
    placed: list[Placed] = field(default_factory=list)
    inputs: dict[str, Message] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    results: dict[str, ToolResult] = field(default_factory=dict)
    said: list[Message] = field(default_factory=list)
    measured: Measured | None = None

    @property
    def messages(self) -> list[Message]:
        """The messages, in order."""
        return [each.message for each in self.placed]

    def fold(self, envelope: Envelope, event: JournalEvent | Unknown) -> None:
        """Take one event in; events must come in the order of their cursors."""
        assert envelope.cursor > self.cursor, "the journal is read in order"
        self.cursor = envelope.cursor
        run_id = envelope.run_id or ""
        match event:
            case InputReceived(input_id=input_id, items=items):
                self.inputs[input_id] = Message("user", list(items))
            case RunAccepted(input_id=input_id):
                self.runs[run_id] = input_id
            case RunStarted():
                self._begin(envelope, run_id)
            case MessageAppended():
                self._answered(envelope, event)
            case TranscriptImported(message=message):
                self._imported(envelope, message)
            case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
                self._return(envelope, ToolResult(call_id, tool, text, is_error))
            case Steered(items=items):
                self._steered(run_id, items)
            case IndoubtResolved(note=note) | TaskStalled(note=note) | TaskEnded(note=note) if note:
                self.said.append(Message("user", [Text(note)]))
            case ModelAsked():
                self._read_out(envelope)
            case RunEnded():
                self._read_out(envelope)
                # One that was cancelled while it was queued never came to be said to the model.
                self.inputs.pop(self.runs.pop(run_id, ""), None)
            case ContextCompacted():
                self._compact(envelope, event)
            case SessionCreated():
                self._branch(envelope)
            case _:
                pass

    def _add(self, envelope: Envelope, message: Message, kind: Literal["", "input"] = "") -> None:
        self.placed.append(Placed(envelope.cursor, envelope.at_ms, message, kind))

    def _answered(self, envelope: Envelope, event: MessageAppended) -> None:
        tokens = event.usage.input_tokens + event.usage.output_tokens
        if tokens:
            self.measured = Measured(envelope.cursor, tokens, event.message.agent)
        if event.message.role == "tool":
            self._join(envelope, event.message)
            return
        self._close(envelope)
        self._add(envelope, event.message)
        self.calls = {item.call_id: item.name for item in event.message.items if isinstance(item, ToolCall)}

    def _imported(self, envelope: Envelope, message: Message) -> None:
        """A message of another session. What a user said between a call and its result waits for that."""
        if message.role == "tool":
            self._join(envelope, message)
        elif message.role == "user" and self.calls:
            self.said.append(message)
        else:
            self._close(envelope)
            self._read_out(envelope)
            self._add(envelope, message, "input" if message.role == "user" else "")
            self.calls = {item.call_id: item.name for item in message.items if isinstance(item, ToolCall)}

    def _steered(self, run_id: str, items: list[InputItem]) -> None:
        """What is said to a run that has not started belongs to its input: others do not read it."""
        input_id = self.runs.get(run_id, "")
        if input_id in self.inputs:
            self.inputs[input_id] = Message("user", [*self.inputs[input_id].items, *items])
        else:
            self.said.append(Message("user", list(items)))

    def _join(self, envelope: Envelope, message: Message) -> None:
        """Results join those of the calls they belong to, in whatever portions they come."""
        for item in message.items:
            if isinstance(item, ToolResult):
                self._return(envelope, item)

    def _return(self, envelope: Envelope, result: ToolResult) -> None:
        if result.call_id not in self.calls:
            return
        self.results[result.call_id] = result
        if len(self.results) == len(self.calls):
            self._add(envelope, Message("tool", [self.results[call_id] for call_id in self.calls]))
            self.calls, self.results = {}, {}

    def _close(self, envelope: Envelope) -> None:
        """A call whose result was never kept, as at the end of an import that was cut there, gets one."""
        missing = [(call_id, tool) for call_id, tool in self.calls.items() if call_id not in self.results]
        for call_id, tool in missing:
            self._return(envelope, ToolResult(call_id, tool, "No result of this was kept.", True))

    def _read_out(self, envelope: Envelope) -> None:
        """What was said to the model meanwhile: never between a call and its result."""
        if not self.calls:
            for message in self.said:
                self._add(envelope, message)
            self.said = []

    def _begin(self, envelope: Envelope, run_id: str) -> None:
        message = self.inputs.pop(self.runs.get(run_id, ""), None)
        if message is not None:
            self._close(envelope)
        self._read_out(envelope)
        if message is not None:
            self._add(envelope, message, "input")

    def _compact(self, envelope: Envelope, event: ContextCompacted) -> None:
        upto = min(event.upto, envelope.cursor)
        newest = self.placed[-1].cursor if self.placed else 0
        if event.strategy != "results" and newest <= upto:
            # The results that are still to come would have lost their calls.
            self.calls, self.results = {}, {}
        match event.strategy:
            case "summary":
                self.placed = summed_up(self.placed, upto, envelope.at_ms, event.summary)
            case "snip":
                self.placed = snipped(self.placed, upto)
            case "results":
                self.placed = without_results(self.placed, upto, event.tools)
        # What was counted before is no longer what is shown.
        self.measured = None

    def _branch(self, envelope: Envelope) -> None:
        """Here a session begins. What the one that it branched off was still to do is that one's affair."""
        self._close(envelope)
        self._read_out(envelope)
        self.inputs, self.runs = {}, {}


class _Checkpoint(Struct, array_like=True):
    """A transcript written down. ``shape`` is another number whenever a transcript has another shape."""

    shape: Literal[2]
    transcript: Transcript


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Checkpoint)


def to_checkpoint(transcript: Transcript) -> bytes:
    """A transcript as the bytes of a checkpoint."""
    return _encoder.encode(_Checkpoint(2, transcript))


def from_checkpoint(checkpoint: bytes) -> Transcript:
    """A checkpoint read back. Errors: msgspec.DecodeError if it is of another shape: then fold anew."""
    return _decoder.decode(checkpoint).transcript


def framed(messages: list[Message], *, speaker: str, primary: str) -> list[Message]:
    """The messages as ``speaker`` is to read them: what others said stands in ``<from>`` tags.

    The tools that others used are their own affair: neither their calls nor the results are shown, for a
    result without its call is no valid transcript.

    Shape: the same messages where nobody else spoke; framing never reaches the journal.
    """
    shown: list[Message] = []
    author = primary
    for message in messages:
        if message.role == "assistant":
            author = message.agent or primary
        if message.role == "user" or author == speaker:
            shown.append(message)
        elif message.role == "assistant":
            shown += _tagged(message, author)
    return shown


def _tagged(message: Message, author: str) -> list[Message]:
    """What another agent said, as the speaker is to read it; nothing where it only used tools."""
    named = _inside(author).replace('"', "&quot;")
    items: list[Item] = [
        Text(f'<from agent="{named}">\n{_inside(item.text)}\n</from>')
        for item in message.items
        if isinstance(item, Text)
    ]
    return [Message("user", items)] if items else []


def _inside(text: str) -> str:
    """A text that does not end the tag it stands in: what followed would pass for the user's own words."""
    return _TAG.sub("&lt;", text)


def framing(*, speaker: str, primary: str, others: list[str]) -> str:
    """The sentences that explain the tags, added to the instructions; empty when nobody else spoke."""
    if speaker != primary:
        return (
            f"\n\nYou are a guest in a conversation between the user and the agent '{primary}'. Answer the "
            "last message as yourself. What other agents said stands in <from> tags."
        )
    if others:
        return "\n\nWhat stands in <from> tags was said by guests: other agents who were asked to speak."
    return ""


def guests(messages: list[Message]) -> list[str]:
    """The agents who spoke as guests, each once, in the order they first spoke."""
    return list(dict.fromkeys(message.agent for message in messages if message.agent))
