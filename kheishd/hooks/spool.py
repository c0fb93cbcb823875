"""A spool: what a command wrote, in a file, for as long as its call lasts.

It keeps what memory need not hold, and it outlives the daemon: what a command wrote until it was cut short
is read from here. A file of the daemon's own home, in a directory that is nobody else's.
"""

import io
import os
from contextlib import suppress
from pathlib import Path

from protocol.limits.call import MAX_TOOL_OUTPUT_BYTES

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600


class Spool:
    """One file that is written from its beginning and read at the end. Every method waits for the disk.

    ``dropped`` is how much it did not take: it was full, or could not be written, which ``problem`` says.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_TOOL_OUTPUT_BYTES) -> None:
        self.path = path
        self.dropped = 0
        self.problem: str | None = None
        self._room = max_bytes
        self._file: io.FileIO | None = None

    @property
    def takes_more(self) -> bool:
        """Whether anything comes of writing to it."""
        return self._file is not None and self._room > 0

    def begin(self) -> None:
        """Make the file. A disk that does not let us is no reason not to run a command."""
        try:
            self.path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self._file = io.FileIO(self.path, "w", opener=_private)
        except OSError as error:
            self.problem = error.strerror

    def write(self, data: bytes | bytearray) -> None:
        """Add what there is room for."""
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
        """All that it took."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            self.problem = error.strerror
            return b""

    def remove(self) -> None:
        """Close it and be rid of it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        with suppress(OSError):
            self.path.unlink()


def tail(path: Path, max_bytes: int) -> bytes | None:
    """The end of a spool that somebody left; None if there is none."""
    try:
        with io.FileIO(path, "r", opener=_private) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            return file.read(max_bytes)
    except OSError:
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, PRIVATE_FILE)
