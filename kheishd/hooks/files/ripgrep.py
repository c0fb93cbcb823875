"""``grep_search`` by ripgrep: it finds the lines, and only what is then read here is told.

ripgrep opens files by name. It follows no links, but between its looking and its opening somebody could put
one there, and it would read what lies outside. So nothing that it says is passed on: each line is read again,
through descriptors that cannot lead outside, and told if it is there and says the same.

It is run in the directory that is searched, held open by its descriptor, with nothing of the daemon's
environment, and is killed as soon as enough was found or nobody waits any more.
"""

import os
import posixpath
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
import trio
from msgspec import Raw, Struct

from kheishd.hooks.files.arguments import Pattern
from kheishd.hooks.files.confine import Root, explained, open_root, relative
from kheishd.hooks.files.searching import Bounded, Match, around, told
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_EDIT_BYTES, MAX_GREP_LINE_BYTES, MAX_GREP_OUTPUT_BYTES, MAX_MATCHES
from protocol.limits.units import KIB

ARGUMENTS: Final = (
    "--json",
    "--no-config",
    "--no-messages",
    "--hidden",
    "--glob=!.git",
    "--encoding=none",
    "--sort=path",
    f"--max-count={MAX_MATCHES + 1}",
    f"--max-filesize={MAX_EDIT_BYTES}",
)
ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8"}

_CHUNK_BYTES: Final = 64 * KIB
_COMPLAINT_CHARACTERS: Final = 500
_FAILED: Final = 2

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class _Written(Struct):
    """Text, or the base64 of what is not UTF-8."""

    text: str | None = None
    base64: str | None = msgspec.field(default=None, name="bytes")

    def raw(self) -> bytes:
        """The bytes that are meant."""
        return self.text.encode() if self.text is not None else b64decode(self.base64 or "")


class _Span(Struct):
    start: int


class _Claim(Struct):
    """A match, as ripgrep tells it."""

    path: _Written
    lines: _Written
    line_number: int
    absolute_offset: int
    submatches: list[_Span]


class _Said(Struct):
    type: str
    data: Raw = Raw(b"")


_said = msgspec.json.Decoder(_Said)
_claim = msgspec.json.Decoder(_Claim)


class Lines:
    """Lines out of pieces of output, bounded. ``skipped``: one was too long and is not among them.

    ``cut``: there is more output than is taken. ``complaint`` is what was said that is not JSON.
    """

    def __init__(self) -> None:
        self.cut = False
        self.skipped = False
        self.complaint = ""
        self._taken = 0
        self._rest = b""
        self._skipping = False

    def take(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece; an empty piece is the end of all."""
        self._taken += len(piece)
        self.cut = self._taken > MAX_GREP_OUTPUT_BYTES
        *lines, self._rest = (self._rest + (piece or b"\n")).split(b"\n")
        if lines and self._skipping:
            del lines[0]
            self._skipping = False
        if self._skipping or len(self._rest) > MAX_GREP_LINE_BYTES:
            self._skipping = self.skipped = True
            self._rest = b""
        said = [line for line in lines if line and not line.startswith(b"{")]
        self.complaint = b"\n".join([self.complaint.encode(), *said]).decode(errors="replace").strip()
        self.complaint = self.complaint[:_COMPLAINT_CHARACTERS]
        return [line for line in lines if line.startswith(b"{")]


async def regex_search(program: str, workspace: str, asked: Pattern, in_thread: InThread) -> str:
    """The lines that a regular expression matches, files in the order of their paths.

    Errors: ToolError; OSError if the program cannot be run.
    """
    command = [program, *ARGUMENTS, f"--regexp={_sayable(asked.pattern)}", "--", "."]
    base = relative(asked.base, workspace)
    found, lines = Bounded(asked.limit), Lines()
    with ExitStack() as stack:
        root, directory = await in_thread(partial(_opened, stack, workspace, base))
        async with _running(command, directory) as process:
            assert process.stdout is not None
            more = True
            while more and not found.cut and not lines.cut:
                piece = await process.stdout.receive_some(_CHUNK_BYTES)
                more = bool(piece)
                await in_thread(partial(_confirm, root, base, lines.take(bytes(piece)), found))
            if not more and not found.items and await process.wait() == _FAILED:
                raise ToolError(f"the search cannot be done: {lines.complaint}")
    cut = found.cut or lines.cut or lines.skipped
    return told({"matches": found.items, "truncated": cut, "engine": "ripgrep"})


def _sayable(pattern: str) -> str:
    """Errors: ToolError for what cannot be an argument of a program."""
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise ToolError("the pattern holds half a character (a lone surrogate)") from None
    if "\0" in pattern:
        raise ToolError(r"the pattern holds a zero character; write it as \x00")
    return pattern


def _opened(stack: ExitStack, workspace: str, base: str) -> tuple[Root, int]:
    root = stack.enter_context(open_root(workspace))
    with explained(base):
        return root, stack.enter_context(root.directory(base))


@asynccontextmanager
async def _running(command: list[str], directory: int) -> AsyncIterator[trio.Process]:
    """A program at work in a directory; when left, it has ended, one way or another."""
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # The child changes to it before it closes what it is not given.
        cwd=f"/proc/self/fd/{directory}",
        env=ENVIRONMENT,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


def _confirm(root: Root, base: str, lines: list[bytes], found: Bounded) -> None:
    """Take the matches that are where ripgrep says they are."""
    for line in lines:
        if _said.decode(line).type != "match":
            continue
        claim = _claim.decode(_said.decode(line).data)
        match = _confirmed(root, base, claim)
        if match is not None and not found.take(match):
            return


def _confirmed(root: Root, base: str, claim: _Claim) -> Match | None:
    """The match as it is read here; None if it is not there, or its file cannot be named."""
    try:
        path = relative(posixpath.join(base, claim.path.text or ""), root.workspace)
        with explained(path), root.file(path) as descriptor:
            line = os.pread(descriptor, len(claim.lines.raw()), claim.absolute_offset)
    except ToolError:
        return None
    if line != claim.lines.raw():
        return None
    return Match(path, claim.line_number, around(line, claim.submatches[0].start if claim.submatches else 0))
