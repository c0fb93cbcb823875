"""The text of a message: the words of the command line, standard input, or both."""

import os
import select
import stat
import sys

import click

from kheishctl.cli import App
from kheishctl.contract import MAX_INPUT_BYTES
from kheishctl.options import NO_STDIN

# A program that feeds a pipe, such as 'git diff', writes within this time. A pipe that a script inherited,
# such as that of ssh without a terminal, may stay open and silent for ever.
FIRST_BYTE_SECONDS = 3.0


def read_text(app: App, words: tuple[str, ...], recipient: str | None) -> str:
    """Return the message: the words, then standard input after an empty line if it has data.

    Without words, and after the word ``-``, standard input is read to its end. Errors: a usage error for an
    empty message, and for one that is too large or no UTF-8 text.
    """
    needs_input = not words or words[-1] == "-"
    text = " ".join(words[:-1] if needs_input else words)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise click.UsageError("TEXT is not UTF-8 text") from None
    if needs_input:
        if sys.stdin.isatty():
            app.note(f"Type the message for {recipient or 'the default agent'}; Ctrl-D sends it.")
        piped = _read_input(size)
    else:
        has_input = not click.get_current_context().meta.get(NO_STDIN) and _has_input()
        piped = _read_input(size) if has_input else ""
    if not text.strip() and not piped.strip():
        agent = f"the agent {recipient!r}" if recipient else "the default agent"
        raise click.UsageError(f"there is no message for {agent}; pass AGENT and TEXT, or standard input")
    return f"{text}\n\n{piped}" if text and piped.strip() else text or piped


def _has_input() -> bool:
    """Whether standard input is a file, or a pipe that has data or ends; not a terminal or a device.

    A terminal's user can see the wait and end it. Elsewhere a silent pipe is left alone, with a note.
    """
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return False
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return stat.S_ISREG(mode)
    if select.select([descriptor], [], [], FIRST_BYTE_SECONDS)[0]:
        return True
    # Written with --json, too: the message lacks something that the caller may have meant to send.
    if sys.stderr.isatty():
        sys.stderr.write("Waiting for standard input; Ctrl-D or its end sends the message.\n")
        return True
    sys.stderr.write(
        f"standard input had no data for {FIRST_BYTE_SECONDS:g} s and is not part of the message; end the "
        "arguments with '-' to wait for it, or pass --no-stdin\n"
    )
    return False


def _read_input(size: int) -> str:
    """Return standard input, after a text of ``size`` bytes. Errors: a usage error if it is unsuitable."""
    content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 4)
    if size + len(content) > MAX_INPUT_BYTES:
        raise click.UsageError(
            f"the message is too large: the limit is {MAX_INPUT_BYTES // 1024} KiB; put the input in a file "
            "of the workspace and name the file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError("standard input is not UTF-8 text") from None
