"""The transcript: the messages shown to a session's models, folded from the journal. Pure.

An input enters the transcript when its run starts, not when it arrives: an input that arrives during another
run follows that run's answer. So the model always reads question, answer, question, answer.

When a conversation has become long, an event records that it is reduced from then on;
``core/context/reduction.py`` applies it. The transcript of a fork begins with its parent's.

A :class:`Transcript` can be saved as a session's checkpoint (``core/context/checkpoint.py``).
"""

import sys
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from kheishd.core.context.encodings import MessageEncodings
from kheishd.core.context.memory import memory_of_message
from kheishd.core.context.reduction import TranscriptEntry, drop_results, replace_with_summary, snip
from kheishd.core.trust import escape_attribute, escape_tags, frame
from protocol.events.call import ToolReturned
from protocol.events.context import ContextCompacted
from protocol.events.hook import HookContextAdded
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
from protocol.events.task import TaskAdopted, TaskEnded, TaskStalled
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown
from protocol.transcript import Item, Message, Text, ToolCall, ToolResult

MISSING_RESULT: Final = "The result of this call is missing."
"""The result of a call that has none, such as one that ran at a fork point."""

# A conversation has a few origins with one or two marks each; an import must not make it thousands.
MAX_ORIGINS = 64
MAX_MARKS = 16

VIEW_BYTES: Final = 400
"""The memory of a view without messages."""


class TokenCount(Struct, frozen=True, array_like=True):
    """A provider's token count: of a whole prompt for ``speaker`` and its answer at ``cursor``.

    ``speaker`` is None for the session's own agent.
    """

    cursor: int
    tokens: int
    speaker: str | None


class Transcript(Struct):
    """The transcript up to ``cursor``, and the inputs of runs that have not started.

    ``inputs`` is keyed by input id, ``runs`` maps run ids to input ids. ``steers`` are messages to runs that
    have not started, by input id, unless they joined the input. ``calls`` maps the ids of the newest
    message's calls to tools while results are missing; the ``results`` enter together, in the order of the
    calls. ``pending`` are messages that enter before the next answer, once no call is open. ``counted`` is
    the newest token count that is still valid. ``marks`` are the marks of each origin's provider data; a
    compaction keeps them. A message is appended to ``entries``; a compaction replaces the list.
    """

    cursor: int = 0
    entries: list[TranscriptEntry] = field(default_factory=list)
    inputs: dict[str, Message] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    results: dict[str, ToolResult] = field(default_factory=dict)
    pending: list[Message] = field(default_factory=list)
    counted: TokenCount | None = None
    marks: dict[str, list[str]] = field(default_factory=dict)
    steers: dict[str, list[Message]] = field(default_factory=dict)

    @property
    def messages(self) -> list[Message]:
        """The messages, in order."""
        return [entry.message for entry in self.entries]

    def fold(self, envelope: Envelope, event: JournalEvent | Unknown) -> None:
        """Apply one event; events must come in the order of their cursors."""
        assert envelope.cursor > self.cursor, "the journal is read in order"
        self.cursor = envelope.cursor
        run_id = envelope.run_id or ""
        match event:
            case InputReceived(input_id=input_id):
                self.inputs[input_id] = message_of(event)
            case RunAccepted(input_id=input_id):
                self.runs[run_id] = input_id
            case RunStarted():
                self._start_run(envelope, run_id)
            case MessageAppended():
                self._append_message(envelope, event)
            case TranscriptImported(message=message):
                self._import_message(envelope, message)
            case ToolReturned(call_id=call_id, tool=tool, text=text, is_error=is_error):
                self._add_result(envelope, ToolResult(call_id, tool, text, is_error))
            case Steered():
                self._add_steer(run_id, message_of(event))
            case HookContextAdded():
                self._add_context(envelope, message_of(event))
            case (
                IndoubtResolved(note=note)
                | TaskStalled(note=note)
                | TaskEnded(note=note)
                | TaskAdopted(note=note)
            ) if note:
                self.pending.append(Message("user", [Text(note)]))
            case ModelAsked():
                self._add_pending(envelope)
            case RunEnded():
                self._add_pending(envelope)
                # The input of a run that was cancelled in the queue never enters.
                input_id = self.runs.pop(run_id, "")
                self.inputs.pop(input_id, None)
                self.steers.pop(input_id, None)
            case ContextCompacted():
                self._compact(envelope, event)
            case SessionCreated():
                # The fork point: pending inputs of the parent are not inherited.
                self._close_calls(envelope)
                self._add_pending(envelope)
                self.inputs, self.runs, self.steers = {}, {}, {}
            case _:
                pass

    def _add(self, envelope: Envelope, message: Message, kind: Literal["", "input"] = "") -> None:
        data = message.provider_data
        if data is not None and data.marks and (data.origin in self.marks or len(self.marks) < MAX_ORIGINS):
            marks = {*self.marks.get(data.origin, ()), *data.marks}
            self.marks[data.origin] = sorted(marks)[:MAX_MARKS]
        self.entries.append(TranscriptEntry(envelope.cursor, envelope.at_ms, message, kind))

    def _append_message(self, envelope: Envelope, event: MessageAppended) -> None:
        tokens = event.usage.input_tokens + event.usage.output_tokens
        if tokens:
            self.counted = TokenCount(envelope.cursor, tokens, event.message.agent)
        if event.message.role == "tool":
            self._add_results(envelope, event.message)
            return
        self._close_calls(envelope)
        self._add(envelope, event.message)
        self.calls = _find_calls(event.message)

    def _import_message(self, envelope: Envelope, message: Message) -> None:
        """Add a message of another session. A user's message between call and result waits for the result."""
        if message.role == "tool":
            self._add_results(envelope, message)
        elif message.role == "user" and self.calls:
            self.pending.append(message)
        else:
            self._close_calls(envelope)
            self._add_pending(envelope)
            self._add(envelope, message, "input" if message.role == "user" else "")
            self.calls = _find_calls(message)

    def _add_steer(self, run_id: str, message: Message) -> None:
        """Add a steer; that of a run that has not started enters with its input, hidden from other runs."""
        input_id = self.runs.get(run_id, "")
        if input_id not in self.inputs:
            self.pending.append(message)
            return
        steers = self.steers.get(input_id, [])
        joined = join_messages([self.inputs[input_id], *steers], message)
        self.inputs[input_id] = joined[0]
        if len(joined) > 1:
            self.steers[input_id] = joined[1:]

    def _add_context(self, envelope: Envelope, message: Message) -> None:
        """Add a hook's text: for the model call that is about to be made, or for the next one."""
        if self.calls:
            self.pending.append(message)
        else:
            self._add(envelope, message)

    def _add_results(self, envelope: Envelope, message: Message) -> None:
        for item in message.items:
            if isinstance(item, ToolResult):
                self._add_result(envelope, item)

    def _add_result(self, envelope: Envelope, result: ToolResult) -> None:
        if result.call_id not in self.calls:
            return
        self.results[result.call_id] = result
        if len(self.results) == len(self.calls):
            self._add(envelope, Message("tool", [self.results[call_id] for call_id in self.calls]))
            self.calls, self.results = {}, {}

    def _close_calls(self, envelope: Envelope) -> None:
        """Add a placeholder for each missing result, such as at the end of a truncated import."""
        missing = [(call_id, tool) for call_id, tool in self.calls.items() if call_id not in self.results]
        for call_id, tool in missing:
            self._add_result(envelope, ToolResult(call_id, tool, MISSING_RESULT, True))

    def _add_pending(self, envelope: Envelope) -> None:
        """Add the pending messages, unless calls are open: nothing may separate a call from its result."""
        if not self.calls:
            for message in self.pending:
                self._add(envelope, message)
            self.pending = []

    def _start_run(self, envelope: Envelope, run_id: str) -> None:
        input_id = self.runs.get(run_id, "")
        message = self.inputs.pop(input_id, None)
        if message is not None:
            self._close_calls(envelope)
        self._add_pending(envelope)
        if message is not None:
            self._add(envelope, message, "input")
            for steer in self.steers.pop(input_id, ()):
                self._add(envelope, steer)

    def _compact(self, envelope: Envelope, event: ContextCompacted) -> None:
        upto = min(event.upto, envelope.cursor)
        newest = self.entries[-1].cursor if self.entries else 0
        if event.strategy != "results" and newest <= upto:
            # The calls are removed, so later results must not enter.
            self.calls, self.results = {}, {}
        match event.strategy:
            case "summary":
                self.entries = replace_with_summary(self.entries, upto, envelope.at_ms, event.summary)
            case "snip":
                self.entries = snip(self.entries, upto)
            case "results":
                self.entries = drop_results(self.entries, upto, event.tools)
        # The count is that of the longer prompt.
        self.counted = None


def message_of(event: InputReceived | Steered | HookContextAdded) -> Message:
    """Return the message of an input, a steer or a hook's text."""
    if isinstance(event, HookContextAdded):
        return Message("user", [Text(event.text)], origin=event.origin, source=event.source)
    return Message(
        "user", list(event.items), origin=event.origin, source=event.source, authority=event.authority
    )


def join_messages(messages: list[Message], steer: Message) -> list[Message]:
    """Return the messages that wait for a run's start with a further one.

    It joins the last one if the same author wrote both: a text must not pass for another author's.
    """
    last = messages[-1]
    if (last.origin, last.source) != (steer.origin, steer.source) or last.authority or steer.authority:
        return [*messages, steer]
    return [*messages[:-1], replace(last, items=[*last.items, *steer.items])]


def _find_calls(message: Message) -> dict[str, str]:
    return {item.call_id: item.name for item in message.items if isinstance(item, ToolCall)}


# Guests and authors of inputs.


class FramedMessages:
    """The messages as ``speaker`` reads them: other agents' texts are in ``<from>`` tags.

    So are the texts of inputs that are no instructions, in tags of their own (``core/trust.py``).

    The calls and results of other agents' tools are removed: a result without its call is not valid. The same
    messages if no other agent spoke or wrote; framed messages are never journaled. ``count`` is the number of
    messages of the transcript; ``encodings`` are those of drivers.
    """

    __slots__ = ("_author", "_framed_bytes", "_primary", "_speaker", "count", "encodings", "messages")

    def __init__(self, *, speaker: str, primary: str) -> None:
        self.count = 0
        self.messages: list[Message] = []
        self.encodings = MessageEncodings()
        self._speaker = speaker
        self._primary = self._author = primary
        self._framed_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The memory of the framed messages and of the encodings; unframed messages are the transcript's."""
        return VIEW_BYTES + sys.getsizeof(self.messages) + self._framed_bytes + self.encodings.size_bytes

    def append(self, message: Message) -> None:
        """Append the next message of the transcript."""
        self.count += 1
        if message.role == "assistant":
            self._author = message.agent or self._primary
        if message.role == "user":
            framed = frame(message)
            self.messages.append(framed)
            self._framed_bytes += memory_of_message(framed) if framed is not message else 0
        elif self._author == self._speaker:
            self.messages.append(message)
        elif message.role == "assistant":
            name = escape_attribute(self._author)
            items: list[Item] = [
                Text(f'<from agent="{name}">\n{escape_tags(item.text)}\n</from>')
                for item in message.items
                if isinstance(item, Text)
            ]
            if items:
                framed = Message("user", items)
                self.messages.append(framed)
                self._framed_bytes += memory_of_message(framed)


def frame_messages(messages: Iterable[Message], *, speaker: str, primary: str) -> list[Message]:
    """Return the messages as ``speaker`` reads them, framed."""
    framed = FramedMessages(speaker=speaker, primary=primary)
    for message in messages:
        framed.append(message)
    return framed.messages


def format_framing(*, speaker: str, primary: str, guests: list[str]) -> str:
    """Explain the tags to the model; empty if no other agent spoke."""
    if speaker != primary:
        return (
            f"You are a guest in a conversation between the user and the agent '{primary}'. Answer the "
            "last message as yourself. Texts of other agents are in <from> tags."
        )
    if guests:
        return "Texts in <from> tags are of guests: other agents who were asked to speak."
    return ""
