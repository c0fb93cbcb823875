"""The error output of a server: its first and its last lines, and the one that tells why it failed.

Servers and the programs that start them write their reason first and noise after it (``npx``, stack traces of
Node), or noise first and the reason last (Python).
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from protocol.limits.mcp import MAX_ERROR_LINE_BYTES, MAX_FIRST_ERROR_LINES, MAX_LAST_ERROR_LINES
from protocol.text import escape_line

if TYPE_CHECKING:
    from collections.abc import Callable

_CAUSE: Final = re.compile(
    r"\b(ERR!|error|exception|fatal|panic|fail(ed|ure)?|cannot|can't|could not|unable to|not found|no such"
    r"|denied|refused|missing|required|invalid|unknown|undefined|usage)\b|\w(Error|Exception)\b",
    re.IGNORECASE,
)

# Lines about a failure that do not say which.
_NOISE: Final = re.compile(
    r"\b(warn|warning|deprecated)\b|A complete log of this run"
    r"|^npm (error|ERR!) (code|syscall|path|errno|command|signal|cwd)\b",
    re.IGNORECASE,
)

_PYTHON_TRACE: Final = "Traceback (most recent call last):"


class ErrorOutput:
    """The error output of a server's process, in bounds; a new process begins with ``clear``.

    ``scrub_cut`` removes what a cut made of a secret from the end of a line.
    """

    def __init__(self, scrub_cut: Callable[[bytes], bytes] = bytes) -> None:
        self.scrub_cut = scrub_cut
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=MAX_LAST_ERROR_LINES)
        self._left_out = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Take a piece of the output; return the lines that it has completed."""
        *pieces, rest = (self._rest + chunk).split(b"\n")
        # One byte more than is kept shows that the line is cut.
        self._rest = rest[: MAX_ERROR_LINE_BYTES + 1]
        lines = [escape_line(self._cut(piece).decode(errors="replace")).rstrip() for piece in pieces]
        lines = [line for line in lines if line.strip()]
        for line in lines:
            if len(self._first) < MAX_FIRST_ERROR_LINES:
                self._first.append(line)
            else:
                self._left_out += len(self._last) == MAX_LAST_ERROR_LINES
                self._last.append(line)
        return lines

    def _cut(self, line: bytes) -> bytes:
        return line if len(line) <= MAX_ERROR_LINE_BYTES else self.scrub_cut(line[:MAX_ERROR_LINE_BYTES])

    @property
    def lines(self) -> list[str]:
        """The lines that are kept, and a note about those between them."""
        note = [f"… {self._left_out} lines are left out"] if self._left_out else []
        return [*self._first, *note, *self._last]

    def find_cause(self) -> str | None:
        """Return the line that most likely tells why the server failed; None if it wrote nothing."""
        lines = [line.strip() for line in (*self._first, *self._last)]
        if not lines:
            return None
        if _PYTHON_TRACE in lines:
            return lines[-1]
        causes = (line for line in lines if _CAUSE.search(line) and not _NOISE.search(line))
        return next(causes, lines[-1])
