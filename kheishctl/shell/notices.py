"""Desktop notices: tell the person, whose terminal is not in front, that the conversation needs them.

The terminal reports whether it is in front (mode 1004 of xterm). A terminal that never reports it counts as
being in front: a notice about what the person sees is noise.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kheishctl.shell.settings import ChatSettings, NoticeKind

BELL = "\a"

MAX_NOTICE_CHARACTERS = 200

# Programs that show the text of OSC 9, by $TERM_PROGRAM, and terminals that show that of OSC 777, by $TERM.
OSC_9_PROGRAMS = ("iTerm.app", "WezTerm", "ghostty", "kitty")
OSC_777_TERMS = ("rxvt", "foot")


def choose_kind(environ: Mapping[str, str]) -> NoticeKind:
    """Return the kind of notice that the terminal shows; one whose kind is unknown has a bell."""
    # A multiplexer hands on the bell, and nothing else unless it is told to.
    if environ.get("TMUX") or environ.get("STY"):
        return "bell"
    if environ.get("TERM_PROGRAM") in OSC_9_PROGRAMS or environ.get("KITTY_WINDOW_ID"):
        return "osc9"
    return "osc777" if environ.get("TERM", "").startswith(OSC_777_TERMS) else "bell"


def format_sequence(kind: NoticeKind, title: str, text: str) -> str:
    """Return the characters that make a terminal show a notice."""
    title, text = one_line(title), one_line(text)[:MAX_NOTICE_CHARACTERS]
    match kind:
        case "osc9":
            return f"\x1b]9;{title}: {text}{BELL}"
        case "osc777":
            return f"\x1b]777;notify;{title.replace(';', ',')};{text.replace(';', ',')}{BELL}"
        case "off":
            return ""
        case _:
            return BELL


class NoticeSender:
    """The sender of notices. ``write`` writes to the terminal, ``report`` shows a problem in the chat."""

    def __init__(
        self,
        settings: ChatSettings,
        environ: Mapping[str, str],
        write: Callable[[str], None],
        report: Callable[[str], None],
    ) -> None:
        self.is_in_front = True
        self._kind = choose_kind(environ) if settings.notice == "auto" else settings.notice
        self._command = settings.notice_command
        self._write = write
        self._report = report
        # The commands that are running.
        self.tasks: set[asyncio.Task[None]] = set()

    def ring(self) -> None:
        """Ring the bell, wherever the terminal is."""
        if self._kind != "off":
            self._write(BELL)

    def announce(self, title: str, text: str) -> None:
        """Send a notice unless the terminal is in front."""
        if self.is_in_front:
            return
        self._write(format_sequence(self._kind, title, text))
        if self._command:
            task = asyncio.ensure_future(self._run_command(one_line(title), one_line(text)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _run_command(self, title: str, text: str) -> None:
        nowhere = asyncio.subprocess.DEVNULL
        arguments = (*self._command, title, text[:MAX_NOTICE_CHARACTERS])
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
            )
        except OSError as error:
            self._command = ()
            self._report(f"notice_command: {arguments[0]}: {error.strerror}; it is not run again")
            return
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if code:
            self._report(f"notice_command: {arguments[0]} ended with code {code}")
