"""Show on a terminal that a command which takes longer than a second is at work."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from kheishctl.cli import App
from kheishctl.render.units import format_duration, format_size
from protocol.text import one_line

FIRST_SECONDS = 1.0
"""Faster commands show nothing."""

TICK_SECONDS = 0.5


@contextmanager
def progress(app: App, label: str, detail: Callable[[], str] = str) -> Iterator[None]:
    """Show the label, ``detail`` and the time on standard error until the block ends.

    Only a terminal gets this line, and it is erased at the end; with ``--json`` there is none.
    """
    if app.as_json or not sys.stderr.isatty():
        yield
        return
    done, started = threading.Event(), time.monotonic()

    def show() -> None:
        pause = FIRST_SECONDS
        while not done.wait(pause):
            parts = (format_duration(time.monotonic() - started), detail())
            line = one_line(f"{label} … {', '.join(filter(None, parts))}")
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()
            pause = TICK_SECONDS
        if pause != FIRST_SECONDS:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure_path(path: str) -> str:
    """Return the size of a file, or of the files in a directory; empty while it does not exist."""
    with suppress(OSError):
        files = [entry.path for entry in os.scandir(path)] if os.path.isdir(path) else [path]
        return format_size(sum(map(os.path.getsize, files)))
    return ""
