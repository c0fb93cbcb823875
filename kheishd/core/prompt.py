"""What a model is shown: the transcript folded from the journal, and how guests are framed. Pure.

An input enters the transcript when its run starts, not when it arrives: what was said while another run
was at work comes after that run's answer, so the model always reads question, answer, question, answer.

A :class:`Transcript` can be written down as a session's checkpoint and read back; it is a cache: folding
the journal from the beginning gives the same one.
"""

import re
from typing import Final

import msgspec
from msgspec import Struct, field

from protocol.events import (
    DoubtSettled,
    Envelope,
    InputReceived,
    JournalEvent,
    MessageAppended,
    ModelAsked,
    RunAccepted,
    RunEnded,
    RunStarted,
    Steered,
    ToolReturned,
    TranscriptImported,
    Unknown,
)
from protocol.transcript import Item, Message, Text, ToolCall, ToolResult

_TAG: Final = re.compile(r"<(?=\s*/?\s*from\b)", re.IGNORECASE)

CHECKPOINT_EVENTS = 64
"""Events after which a new checkpoint is worth its bytes: about ten text turns."""


class Transcript(Struct):
    """The messages of a session up to ``cursor``, and the inputs whose runs have not started.

    ``inputs`` is by input id, ``runs`` from run id to input id. ``calls`` are the calls of the newest
    message, from id to tool, while not all of them have their ``results``: those enter together, in the
    order of the calls. ``said`` is what is to be read before the next answer: it enters once no call is open.
    """

    cursor: int = 0
    messages: list[Message] = field(default_factory=list)
    inputs: dict[str, Message] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    results: dict[str, ToolResult] = field(default_factory=dict)
    said: list[Message] = field(default_factory=list)

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
                self._begin(run_id)
            case MessageAppended(message=message) | TranscriptImported(message=message):
                self._append(message)
            case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
                self._return(ToolResult(call_id, tool, text, is_error))
            case Steered(items=items):
                self.said.append(Message("user", list(items)))
            case DoubtSettled(note=note) if note:
                self.said.append(Message("user", [Text(note)]))
            case ModelAsked():
                self._read_out()
            case RunEnded():
                self._read_out()
                # One that was cancelled while it was queued never came to be said to the model.
                self.inputs.pop(self.runs.pop(run_id, ""), None)
            case _:
                pass

    def _append(self, message: Message) -> None:
        self.messages.append(message)
        self.results = {}
        self.calls = {item.call_id: item.name for item in message.items if isinstance(item, ToolCall)}

    def _return(self, result: ToolResult) -> None:
        if result.call_id not in self.calls:
            return
        self.results[result.call_id] = result
        if len(self.results) == len(self.calls):
            self.messages.append(Message("tool", [self.results[call_id] for call_id in self.calls]))
            self.calls, self.results = {}, {}

    def _close(self) -> None:
        """A call whose result was never kept, as at the end of an import that was cut there, gets one."""
        for call_id in list(self.calls):
            if call_id not in self.results:
                self._return(ToolResult(call_id, self.calls[call_id], "No result of this was kept.", True))

    def _read_out(self) -> None:
        """What was said to the model meanwhile: never between a call and its result."""
        if not self.calls:
            self.messages += self.said
            self.said = []

    def _begin(self, run_id: str) -> None:
        self._read_out()
        message = self.inputs.pop(self.runs.get(run_id, ""), None)
        if message is not None:
            self._close()
            self.messages.append(message)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Transcript)


def to_checkpoint(transcript: Transcript) -> bytes:
    """A transcript as the bytes of a checkpoint."""
    return _encoder.encode(transcript)


def from_checkpoint(checkpoint: bytes) -> Transcript:
    """A checkpoint read back. Errors: msgspec.DecodeError if it is of another shape: then fold anew."""
    return _decoder.decode(checkpoint)


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
