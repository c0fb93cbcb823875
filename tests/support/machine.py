"""The run machine by itself: a run, and commands that are decided and folded as the store would."""

from dataclasses import dataclass, field
from itertools import count

import msgspec

from kheishd.core.commands import (
    Answered,
    Ask,
    Cancel,
    Command,
    Compact,
    Errored,
    Fail,
    Interrupt,
    Release,
    Start,
    Stopped,
)
from kheishd.core.run import decide, evolve
from protocol.events import (
    CompactionFailed,
    ContextCompacted,
    Envelope,
    JournalEvent,
    RunAccepted,
    Unknown,
    decode_event,
    encode_line,
)
from protocol.objects.run import Pinned, Run, RunError, RunKind
from protocol.transcript import Item, Text, Thinking, ToolCall, Usage

ERROR = RunError("server_error", "the provider failed", 500, retryable=True)
TEXT: Item = Text("hello")
CALL: Item = ToolCall("call_1", "read_file", {"path": "/etc/hostname"})


SUMMARY = ContextCompacted(upto=1, strategy="summary", trigger="auto", summary="x", usage=Usage(5, 1))
NO_SUMMARY = CompactionFailed(trigger="auto", error=ERROR, usage=Usage(3, 0))


def accepted(*, max_turns: int = 0, guest: str | None = None, kind: RunKind = "input") -> RunAccepted:
    """The first event of a run."""
    pinned = Pinned(route="offline", driver="offline", model="offline", max_turns=max_turns)
    return RunAccepted(
        input_id="inp_1", agent="default", pinned=pinned, sender="user", guest=guest, kind=kind
    )


@dataclass
class Machine:
    """One run, its record and its journal. Every event goes through its bytes, as in the store."""

    max_turns: int = 0
    guest: str | None = None
    kind: RunKind = "input"
    journal: list[tuple[Envelope, JournalEvent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._item = count(1)
        self.now_ms = 1_000
        self.record: Run | None = None
        self.append(accepted(max_turns=self.max_turns, guest=self.guest, kind=self.kind))

    @property
    def run(self) -> Run:
        assert self.record is not None
        return self.record

    def append(self, event: JournalEvent) -> None:
        """Journal one event and fold it."""
        self.now_ms += 10
        envelope = Envelope(
            cursor=len(self.journal) + 1, at_ms=self.now_ms, session_id="ses_1", run_id="run_1"
        )
        stored = decode_event(encode_line(envelope, event))
        assert not isinstance(stored, Unknown)
        self.journal.append((envelope, stored))
        self.record = evolve(self.record, envelope, stored)

    def do(self, *commands: Command) -> "Machine":
        """Decide and fold commands, one after another."""
        for command in commands:
            for event in decide(self.run, command):
                self.append(event)
        return self

    def kinds(self) -> list[str]:
        """The types of the events so far."""
        return [str(event.__struct_config__.tag) for _, event in self.journal]


def ask(item_id: str = "itm_1") -> Ask:
    """A model call begins."""
    return Ask(item_id)


def answered(*items: Item, usage: Usage | None = None) -> Answered:
    """A model answers, with a text if nothing else is said."""
    return Answered(list(items) or [TEXT], usage or Usage(3, 2), "end", "model-1")


COMMANDS: tuple[Command, ...] = (
    Start(),
    Ask("itm_1"),
    answered(),
    answered(TEXT, CALL),
    Errored(ERROR, None),
    Errored(ERROR, 5_000),
    Compact(SUMMARY),
    Compact(NO_SUMMARY),
    Compact(None),
    Cancel("cancelled", "enough"),
    Cancel("interrupted"),
    Stopped([]),
    Stopped([TEXT]),
    Stopped([Thinking("hm"), TEXT, CALL]),
    Release("shutdown"),
    Fail(RunError("internal_error", "something failed")),
    Interrupt(RunError("daemon_restarted", "the daemon was restarted")),
)
"""Every command there is, in every form that matters."""


def same(one: object, other: object) -> bool:
    """Whether two records are stored as the same bytes."""
    return msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
