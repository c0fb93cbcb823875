"""The output of background shells, for its readers. Types only."""

from typing import Protocol

from kheishd.kernel.state import Bell
from protocol.structs import Value


class Written(Value, frozen=True):
    """A part of a shell's output.

    ``text`` ends before ``offset`` of the whole output, which has ``total_bytes``. ``left_out_bytes`` come
    before the text. ``kept_bytes`` are stored, in the file at ``path``; None without a file.
    """

    text: str = ""
    offset: int = 0
    left_out_bytes: int = 0
    total_bytes: int = 0
    kept_bytes: int = 0
    path: str | None = None


class Shells(Protocol):
    """The stored output of shells, by the ids of their tasks. Missing output is empty."""

    async def read(self, task_id: str, max_bytes: int, offset: int | None = None) -> Written:
        """Read the end of the output, or the output after an offset, up to ``max_bytes``."""
        ...

    def growth(self, task_id: str) -> Bell:
        """Return a bell that rings when there is more output. Take it before reading."""
        ...
