"""What background shells wrote, for those who read it. Types only."""

from dataclasses import dataclass
from typing import Protocol

from kheishd.kernel.state import Bell


@dataclass(frozen=True, slots=True)
class Written:
    """A part of what a shell wrote.

    ``text`` ends before ``offset``, a place in all that it wrote, which is ``total_bytes``. Before the text
    it wrote ``left_out_bytes``; ``kept_bytes`` are there to be read. ``path`` is the file; None without one.
    """

    text: str = ""
    offset: int = 0
    left_out_bytes: int = 0
    total_bytes: int = 0
    kept_bytes: int = 0
    path: str | None = None


class Shells(Protocol):
    """Where what shells wrote is read, by the ids of their tasks. What is not there is empty."""

    async def read(self, task_id: str, max_bytes: int, offset: int | None = None) -> Written:
        """The end of it, or what follows an offset: so many bytes at most."""
        ...

    def grown(self, task_id: str) -> Bell:
        """A bell that rings once there is more. Take it before reading."""
        ...
