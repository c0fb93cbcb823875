"""The pager: a program in which a person scrolls through text that is longer than the terminal."""

import os
import sys

PAGERS = ("less", "more")
"""The programs that are tried without $PAGER."""

# As git does: colors stay, and the text stays on the screen afterwards.
LESS_OPTIONS = "FRX"


def should_page(text: str) -> bool:
    """Whether text is longer than the terminal that shows it; False in a pipe and on a dumb terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return False
    lines, size = text.split("\n"), os.get_terminal_size(sys.stdout.fileno())
    # The prompt needs a line, too. A terminal of unknown size has no page.
    return bool(size.lines) and len(lines) >= size.lines


def show_in_pager(text: str) -> bool:
    """Show text in $PAGER; whether that was possible. An empty PAGER, or ``cat``, switches the pager off."""
    import shlex
    import shutil
    import subprocess

    command = os.environ.get("PAGER")
    if command is None:
        command = next(filter(shutil.which, PAGERS), "")
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    if not words or words == ["cat"]:
        return False
    environment = {"LESS": LESS_OPTIONS, **os.environ}
    sys.stdout.flush()
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, env=environment)
    except OSError:
        return False
    while process.stdin is not None:
        try:
            # Leaving the pager early closes the pipe; Ctrl-C belongs to the pager while it runs.
            process.communicate(text.encode(errors="replace") + b"\n")
            break
        except KeyboardInterrupt:
            continue
        except BrokenPipeError:
            break
    return process.wait() not in (126, 127)
