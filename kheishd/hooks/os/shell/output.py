"""The output of a command while it runs: streamed, excerpted for the model, and spooled to a file.

However much a command writes, memory holds four halves of an excerpt, and the loop handles one read at a
time. Output that the spool does not take any more is read and dropped, so the command is never slowed down by
its output, and the end of the output is still seen.
"""

import io
import os
from codecs import getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from protocol.limits.call import MAX_TOOL_OUTPUT_BYTES, MAX_TOOL_TEXT_BYTES
from protocol.limits.shell import MAX_COMMAND_LIVE_BYTES
from protocol.text import json_length

READ_BYTES = 64 * 1024
STREAM_END = "\n[there is more output; it is not shown while the command runs]\n"

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600


class Spool:
    """A file with the output of one command, for as long as its call lasts. Every method waits for the disk.

    It holds the output that memory need not hold, and it outlives the daemon: a probe reads the output of an
    interrupted command from it. It is in a private directory of the daemon's home.

    ``dropped`` is the number of bytes that it did not take, because it was full or could not be written;
    ``problem`` is the reason in the second case.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_TOOL_OUTPUT_BYTES) -> None:
        self.path = path
        self.dropped = 0
        self.problem: str | None = None
        self._room = max_bytes
        self._file: io.FileIO | None = None

    @property
    def writable(self) -> bool:
        """Whether it takes more."""
        return self._file is not None and self._room > 0

    def begin(self) -> None:
        """Create the file. A failure of the disk is no reason not to run a command."""
        try:
            self.path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self._file = io.FileIO(self.path, "w", opener=_open_private)
        except OSError as error:
            self.problem = error.strerror

    def write(self, data: bytes | bytearray) -> None:
        """Append as much as there is room for."""
        rest = memoryview(data)
        try:
            while self._file is not None and self._room and rest:
                written = self._file.write(rest[: self._room]) or 0
                self._room -= written
                rest = rest[written:]
        except OSError as error:
            self.problem = error.strerror
            self._room = 0
        self.dropped += len(rest)

    def read(self) -> bytes:
        """Return the whole content."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            self.problem = error.strerror
            return b""

    def remove(self) -> None:
        """Close and delete the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        with suppress(OSError):
            self.path.unlink()


def read_tail(path: Path, max_bytes: int) -> bytes | None:
    """Return the end of a spool that an earlier daemon left; None if there is none."""
    try:
        with io.FileIO(path, "r", opener=_open_private) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            return file.read(max_bytes)
    except OSError:
        return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, PRIVATE_FILE)


class Excerpt:
    """An excerpt of a stream: its first and its last ``half`` bytes; ``total`` is its whole length.

    The first lines say what was done and the last ones how it ended, so both are kept and the middle is left
    out.
    """

    def __init__(self, half: int) -> None:
        self.total = 0
        self._half = half
        self._head = bytearray()
        self._tail = bytearray()

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next piece of the stream."""
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[: -self._half]

    @property
    def complete(self) -> bool:
        """Whether nothing was left out so far."""
        return self.total == len(self._head) + len(self._tail)

    def text(self, max_json_bytes: int) -> tuple[str, bool]:
        """Return the excerpt as text within a limit of JSON bytes, and whether it is the whole stream."""
        head, tail = bytes(self._head), bytes(self._tail)
        if self.complete:
            stream = head + tail
            text = stream.decode(errors="replace")
            if json_length(text) <= max_json_bytes:
                return text, True
            middle = len(stream) // 2
            head, tail = stream[:middle], stream[middle:]
        fitting, exceeding = 0, max(len(head), len(tail)) + 1
        while exceeding - fitting > 1:
            size = (fitting + exceeding) // 2
            if json_length(self._join(head, tail, size)) <= max_json_bytes:
                fitting = size
            else:
                exceeding = size
        return self._join(head, tail, fitting), False

    def _join(self, head: bytes, tail: bytes, size: int) -> str:
        """Join ``size`` bytes of both ends around a marker, without characters that are cut."""
        first, last = _trim_end(head[:size]), trim_start(tail[len(tail) - min(size, len(tail)) :])
        left_out = self.total - len(first) - len(last)
        marker = f"\n[... {left_out} bytes left out ...]\n"
        return first.decode(errors="replace") + marker + last.decode(errors="replace")


def _trim_end(data: bytes) -> bytes:
    """Return the data without a character that is cut at the end."""
    for length in range(1, min(3, len(data)) + 1):
        last = data[-length]
        if last >= 0xC0:
            size = 2 if last < 0xE0 else 3 if last < 0xF0 else 4
            return data[:-length] if size > length else data
        if last < 0x80:
            break
    return data


def trim_start(data: bytes) -> bytes:
    """Return the data without a character that is cut at the beginning."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]


def truncate_middle(text: str, max_json_bytes: int) -> str:
    """Return the text, without its middle if it exceeds a limit of JSON bytes."""
    excerpt = Excerpt(max_json_bytes)
    excerpt.feed(text.encode(errors="replace"))
    return excerpt.text(max_json_bytes)[0]


class OutputCollector:
    """Collector of both outputs of one command. ``stream`` shows a piece to the run's followers."""

    def __init__(self, spool: Spool, stream: Callable[[str], None]) -> None:
        # Either of them may fill the whole text of a result.
        self.stdout = Excerpt(MAX_TOOL_TEXT_BYTES // 2)
        self.stderr = Excerpt(MAX_TOOL_TEXT_BYTES // 2)
        self._spool = spool
        self._spool_lock = trio.Lock()
        self._stream = stream
        self._streamed = 0

    async def pump(self, source: trio.abc.ReceiveStream, excerpt: Excerpt) -> None:
        """Collect one output until it ends."""
        decoder = getincrementaldecoder("utf-8")("replace")
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(READ_BYTES):
                excerpt.feed(data)
                if self._spool.writable:
                    async with self._spool_lock:
                        await trio.to_thread.run_sync(self._spool.write, data)
                else:
                    # A thread for nothing would only cost time.
                    self._spool.dropped += len(data)
                self._show(decoder.decode(data), len(data))
        self._show(decoder.decode(b"", final=True), 0)

    def excerpts(self, max_json_bytes: int) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """Return output and errors as text, each with whether it is complete; together within the limit.

        Shape:  if both are long each has half, if one is short the other has the rest.
        """
        half = max_json_bytes // 2
        output, errors = self.stdout.text(max_json_bytes), self.stderr.text(max_json_bytes)
        if json_length(output[0]) + json_length(errors[0]) > max_json_bytes:
            errors = self.stderr.text(max(half, max_json_bytes - json_length(output[0])))
            output = self.stdout.text(max_json_bytes - json_length(errors[0]))
        return output, errors

    def _show(self, text: str, size: int) -> None:
        if text and self._streamed < MAX_COMMAND_LIVE_BYTES:
            self._streamed += size
            self._stream(text if self._streamed < MAX_COMMAND_LIVE_BYTES else text + STREAM_END)
