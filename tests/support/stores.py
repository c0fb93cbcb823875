"""Helpers for tests of the store: events, updates, programs under strace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from kheishd.store.opening import MAP_BYTES
from kheishd.store.tables import CHECKPOINTS
from kheishd.store.writer import Store
from protocol.events.run import InputReceived
from protocol.transcript import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.store.environment import Transaction

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

T = TypeVar("T")
NOW_MS = 1_800_000_000_000
ROOT = Path(__file__).parents[2]


def make_input(text: str = "hello") -> InputReceived:
    """Return an input with a text."""
    return InputReceived(input_id="inp_1", items=[Text(text)], sender="user")


def open_inline(directory: Path, version: str = "test", map_bytes: int = MAP_BYTES) -> Store:
    """Return a store whose writer runs inline."""
    return Store.open(
        directory, on_group=lambda group: None, threaded=False, version=version, map_bytes=map_bytes
    )


def update(store: Store, fn: Callable[[Transaction], T]) -> T:
    """Run one transaction on a store whose writer is inline; return its value or raise its error."""
    return store.submit(fn, NOW_MS).unwrap()


def append(store: Store, stream: str = "ses_1", text: str = "hello") -> int:
    """Append one event; return its cursor."""
    return update(store, lambda tx: tx.append(stream, make_input(text))[0].cursor)


def fill(store: Store, number: int, size: int) -> None:
    """Write one large row; the same number writes the same row."""
    update(store, lambda tx: tx.put(CHECKPOINTS, "s", number, value=bytes(size)))


def strace_with(injection: str) -> list[str]:
    """Return an strace command that makes system calls of a program fail or kills the program there."""
    calls = injection.partition(":")[0]
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={injection}"]


def python(
    program: str, *arguments: str | Path, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a Python program, perhaps under another one such as strace."""
    command = [*under, sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
