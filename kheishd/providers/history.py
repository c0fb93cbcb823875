"""A conversation in the form of a driver, which grows with the transcript and is kept between model calls.

The beginning of a request is the whole of the previous one. So a history keeps its messages as JSON, those of
a long conversation as one block, which a request sends as it is. Only the last ones may still change: a
further message joins them, a breakpoint moves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from msgspec import Raw

from kheishd.providers.driver import MIN_BLOCK_BYTES, encode
from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from kheishd.core.context.encodings import MessageEncodings
    from protocol.transcript import Message

HistoryT = TypeVar("HistoryT", bound="DriverHistory")

OVERHEAD_BYTES = 96
"""The memory of an encoded message beside its text."""

OPEN_BYTES = 600
"""The memory of a message that is not encoded, beside its texts, which are the transcript's."""


MIN_BLOCK_GROWTH = 1 / 8
"""The part of a block that the messages after it exceed before they join it: most requests copy less."""


class DriverHistory(ABC):
    """The messages of one conversation as a driver sends them.

    ``sent`` are the messages, of which all but the last ``OPEN`` may be encoded; the first element may be a
    block of several, with commas between them. ``called`` are the names of
    the tools that were called, in order, as keys. ``count`` is the number of the transcript's messages.
    """

    OPEN: ClassVar[int] = 1
    """The number of messages at the end that a further message, or a request, may change."""

    CALL_BYTES: ClassVar[int] = 180
    """The memory of a call's ids."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.called: dict[str, None] = {}
        self.count = 0
        self._encoded = 0
        self._encoded_bytes = 0
        # The bytes of the block, and of the encoded messages after it.
        self._block_bytes = self._later_bytes = 0
        self._last: Message | None = None

    @property
    def size_bytes(self) -> int:
        """The memory that the messages take, without texts that they share with the transcript."""
        return self._encoded_bytes + OPEN_BYTES * (len(self.sent) - self._encoded)

    def follow(self, transcript: Sequence[Message]) -> bool:
        """Add the new messages of a transcript; return false, and add none, if earlier ones must change."""
        if self.count and (len(transcript) < self.count or transcript[self.count - 1] is not self._last):
            return False
        messages = transcript[self.count :]
        calls = [item for message in messages for item in message.items if isinstance(item, ToolCall)]
        if not self.learn(messages, calls):
            return False
        self.called.update((call.name, None) for call in calls)
        self._encoded_bytes += self.CALL_BYTES * len(calls)
        for message in messages:
            self.add(message)
            self._last = message
        self.count = len(transcript)
        return True

    def learn(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> bool:
        """Learn from new messages before they are added; return false if they change what was sent."""
        return True

    @abstractmethod
    def add(self, message: Message) -> None:
        """Add one message."""

    def encode(self) -> None:
        """Encode the messages that do not change any more."""
        for index in range(self._encoded, len(self.sent) - self.OPEN):
            # A copy: the encoder returns up to half as much memory again as the text takes.
            encoded = bytes(memoryview(encode(self.sent[index])))
            self.sent[index] = Raw(encoded)
            self._encoded = index + 1
            self._encoded_bytes += len(encoded) + OVERHEAD_BYTES
            self._later_bytes += len(encoded)
        if self._later_bytes >= max(MIN_BLOCK_BYTES, self._block_bytes * MIN_BLOCK_GROWTH):
            block = b",".join(map(memoryview, self.sent[: self._encoded]))
            self.sent[: self._encoded] = [Raw(block)]
            self._encoded_bytes -= (OVERHEAD_BYTES - 1) * (self._encoded - 1)
            self._encoded, self._block_bytes, self._later_bytes = 1, len(block), 0


def follow(
    transcript: Sequence[Message],
    encodings: MessageEncodings | None,
    form: Hashable,
    make: Callable[[], HistoryT],
) -> HistoryT:
    """Return the history of a transcript: the one that was kept, with the new messages, or a new one.

    ``encodings`` keeps it; None: nothing is kept, and nothing encoded. ``form`` names all that the messages
    depend on beside the transcript. Callers must not change the history.
    """
    history: HistoryT | None = None if encodings is None else encodings.take(form)
    if history is None or not history.follow(transcript):
        history = make()
        is_read = history.follow(transcript)
        assert is_read, "nothing was sent that a message could change"
    if encodings is not None:
        history.encode()
        encodings.keep(form, history)
    return history
