"""A program on a pseudo-terminal, with its output on an emulated screen that a test can read."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import pexpect  # type: ignore[import-untyped]
import pyte

WAIT_SECONDS = 20.0

KEYS = {"enter": "\r", "ctrl-c": "\x03", "ctrl-d": "\x04", "alt-enter": "\x1b\r", "tab": "\t", "up": "\x1b[A"}


class Terminal:
    """A program on a screen, with the lines of its scrollback.

    In the root directory no agent may work, so that a conversation has the default workspace.
    """

    def __init__(
        self,
        command: list[str],
        environ: Mapping[str, str],
        *,
        columns: int = 100,
        rows: int = 40,
        cwd: str = "/",
    ) -> None:
        self._screen: Any = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.001)
        self._stream: Any = pyte.Stream(self._screen)
        self.raw = ""
        self._child: Any = pexpect.spawn(
            command[0],
            command[1:],
            env={**os.environ, "TERM": "xterm-256color", "PAGER": "cat", **environ},
            dimensions=(rows, columns),
            encoding="utf-8",
            cwd=cwd,
            timeout=WAIT_SECONDS,
        )
        self._child.delaybeforesend = None
        # The terminal is closed after the program has ended, so closing it needs no pause.
        self._child.ptyproc.delayafterclose = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the program if it is running, and close the terminal."""
        if self._child.isalive():
            self._child.kill(signal.SIGKILL)
        self._end()

    def signal(self, number: int) -> None:
        """Send a signal to the program."""
        self._child.kill(number)

    def type(self, text: str) -> None:
        """Type a text; a tab or newline in it is that key."""
        self._child.send(text)

    def press(self, key: str) -> None:
        """Press one of KEYS."""
        self._child.send(KEYS[key])

    def paste(self, text: str) -> None:
        """Paste a text with the markers of a bracketed paste."""
        self._child.send(f"\x1b[200~{text}\x1b[201~")

    def say(self, text: str) -> None:
        """Type a line and press Enter."""
        self.type(text)
        self.press("enter")

    @property
    def text(self) -> str:
        """The text of the scrollback and the screen, without trailing blanks."""
        scrollback = [
            "".join(line[column].data for column in range(self._screen.columns)).rstrip()
            for line in self._screen.history.top
        ]
        return "\n".join([*scrollback, *self.lines]).rstrip()

    @property
    def lines(self) -> list[str]:
        """The lines on the screen."""
        return [line.rstrip() for line in self._screen.display]

    def until(self, condition: Callable[[str], bool], description: str) -> str:
        """Read until the text fulfils a condition; return the text. Errors: AssertionError if it is late."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(self.text):
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"never saw {description}; the screen shows:\n{self.text}")
        return self.text

    def sees(self, needle: str) -> str:
        """Read until the text contains ``needle``; return the text."""
        return self.until(lambda text: needle in text, repr(needle))

    def ends(self) -> int:
        """Read until the program ends; return its exit code."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self._read():
            assert time.monotonic() < deadline, f"the program does not end; the screen shows:\n{self.text}"
        self._end()
        return int(
            self._child.exitstatus if self._child.exitstatus is not None else -self._child.signalstatus
        )

    def _end(self) -> None:
        """Wait for a program that is about to end, and close the terminal."""
        self._child.wait()
        self._child.close()

    def _read(self) -> bool:
        """Read new output; whether the program is still running."""
        try:
            data = self._child.read_nonblocking(65_536, timeout=0.05)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True
