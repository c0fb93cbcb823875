"""The chat's terminal as plain lines, for terminals without a cursor and for screen readers.

The counterpart of :class:`ChatPrompt` without drawing: text is only appended, and no escape sequence is
written. The terminal itself edits and echoes the line. The prompt appears at the person's turn; a line that
is entered earlier is read as well.
"""

from __future__ import annotations

import asyncio
import locale
import os
import select
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from kheishctl.client import Failure
from protocol.text import one_line, sanitize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

# Changes in quick succession lead to one prompt behind the last of them.
PROMPT_SECONDS = 0.05

# A line of this length may have been cut: Linux keeps 4,096 bytes of a line with its end.
MAX_LINE_BYTES = 4_095

READ_BYTES = 64 * 1_024

DEFAULT_COLUMNS, MIN_COLUMNS = 80, 20


class PlainOwner(Protocol):
    """The owner of a plain prompt: it provides the texts and handles the lines."""

    @property
    def awaits_line(self) -> bool:
        """Whether it is the person's turn."""
        ...

    def prompt_label(self) -> str:
        """Return the label in front of the line."""
        ...

    def take_due_text(self) -> str:
        """Return text that is due, such as a new approval; each text is returned once."""
        ...

    def take_line(self, text: str) -> str | None:
        """Handle a line that is no message; return None for a message."""
        ...

    def cancel_line(self) -> bool:
        """Abandon the line for an approval; whether the line was one."""
        ...

    def interrupt(self) -> bool:
        """Stop the running run; whether there was something to stop."""
        ...

    def note(self, text: str, style: str = "dim") -> None:
        """Print a note."""
        ...


class PlainPrompt:
    """A prompt of plain lines. ``terminal`` has the descriptors for input and output."""

    # The terminal keeps the unfinished line, which nothing but the terminal can change.
    is_empty = True

    def __init__(self, owner: PlainOwner, terminal: tuple[int, int]) -> None:
        self._owner = owner
        self._input, self._output = terminal
        self._encoding = locale.getpreferredencoding(False)
        self._unread = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_at_line_start = True
        self._has_left = False
        self.last_line: str | None = None
        """The message that was entered last, while nothing is written below it."""

    @property
    def columns(self) -> int:
        """The current width of the terminal."""
        try:
            columns = os.get_terminal_size(self._output).columns
        except OSError:
            columns = 0
        return max(MIN_COLUMNS, columns or DEFAULT_COLUMNS)

    @property
    def is_vi(self) -> bool:
        """Whether the line is edited with the keys of vi: never. Errors: Failure if they are switched on."""
        return False

    @is_vi.setter
    def is_vi(self, on: bool) -> None:
        if on:
            raise Failure("the terminal edits plain lines; there are no keys of vi")

    @contextmanager
    def hold_terminal(self) -> Iterator[None]:
        """Handle Ctrl-C, and begin a new line at the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            self._has_left = True
            self._append("")

    async def read(self, text: str = "") -> str:
        """Read the next message or command; an empty line stands for ``text``, if there is one.

        Errors: EOFError when the person leaves.
        """
        while True:
            self.redraw()
            data = await self._read_line()
            line = data.decode(self._encoding, "replace")
            if len(data) >= MAX_LINE_BYTES:
                self._owner.note(
                    f"discarded: the terminal cuts lines after {MAX_LINE_BYTES:,} bytes; "
                    "'kheishctl send' takes longer messages from a file",
                    "yellow",
                )
            elif self._owner.take_line(line) is not None:
                continue
            elif line.strip():
                self.last_line = line
                return line
            elif text:
                return text

    async def _read_line(self) -> bytes:
        """Return the next line without its end. Errors: EOFError when the person leaves."""
        loop = asyncio.get_running_loop()
        while not self._has_left and b"\n" not in self._unread:
            self._waiter = loop.create_future()
            loop.add_reader(self._input, self._receive)
            try:
                await self._waiter
            finally:
                loop.remove_reader(self._input)
        if self._has_left:
            raise EOFError
        line, _, self._unread = self._unread.partition(b"\n")
        self._is_at_line_start = True
        return bytes(line)

    def _receive(self) -> None:
        """Read the input that is ready; its end means that the person leaves."""
        try:
            data = os.read(self._input, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._unread += data
        if not data:
            self._has_left = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _interrupt(self) -> None:
        """Handle Ctrl-C: abandon the line for an approval, else stop the running run.

        The terminal has discarded the unfinished line, and has echoed the key.
        """
        self._unread.clear()
        self._write("\n")
        self._is_at_line_start, self.last_line = True, None
        if not self._owner.cancel_line() and not self._owner.interrupt():
            self._owner.note("nothing is running; Ctrl-D leaves")
        self.redraw()

    def leave(self) -> None:
        """End the prompt, or the next one if none is open, as if the person had left."""
        self._has_left = True
        self._wake()

    # Output.

    def print(self, text: str) -> None:
        """Append finished text; the text ends with its own newline."""
        if text:
            self._append(text)
            self.redraw()

    def redraw(self, delay_s: float = 0.0) -> None:
        """Write the due text and the prompt soon, or after a delay."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(delay_s, PROMPT_SECONDS)
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._write_prompt)

    def _write_prompt(self) -> None:
        """Write the due text; at the person's turn, write the prompt unless it is the last text."""
        self._timer = None
        if self._has_left:
            return
        if text := self._owner.take_due_text():
            self._append(text)
        # Behind a line that was entered already, the prompt would stand alone.
        has_input = bool(select.select([self._input], [], [], 0)[0])
        if self._is_at_line_start and not has_input and self._owner.awaits_line:
            self._write(f"{one_line(self._owner.prompt_label())}> ")
            self._is_at_line_start = False

    def _append(self, text: str) -> None:
        """Write text on lines of its own."""
        self._write(("" if self._is_at_line_start else "\n") + text)
        self._is_at_line_start, self.last_line = True, None

    def _write(self, text: str) -> None:
        """Write text without active characters; the person has left if the terminal is gone."""
        data = sanitize(text).encode(self._encoding, "replace")
        with suppress(OSError):
            while data:
                data = data[os.write(self._output, data) :]

    def write(self, sequence: str) -> None:
        """Ring the bell, but write no other sequence."""
        if sequence == "\a":
            with suppress(OSError):
                os.write(self._output, b"\a")

    def set_text(self, text: str) -> None:
        """Show a text that the person may enter with changes: only the terminal can change the line."""
        self.print(f"{text}\n\n")

    def set_title(self, title: str) -> None:
        """Leave the title of the terminal, which takes an escape sequence to change."""

    def copy(self, text: str) -> None:
        """Reject a text for the clipboard, which takes an escape sequence to fill. Errors: Failure."""
        raise Failure("plain lines cannot reach the clipboard; /export writes the conversation to a file")

    async def view(self, text: str, load: Callable[[], Awaitable[str]]) -> None:
        """Print a text; the text before it, which ``load`` returns, is left out."""
        self.print(f"{text}\n\n")
