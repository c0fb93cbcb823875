"""``read_file``: some lines of a file, and the digest of all of it."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from kheishd.hooks.files.arguments import ReadFile
from kheishd.hooks.files.confine import Root, explained, relative
from kheishd.hooks.files.looking import Check, pieces, still_wanted
from kheishd.kernel.hook import Outcome, ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import MAX_HASHED_BYTES, MAX_READ_BYTES
from protocol.limits.units import KIB

# A path of 1 KiB, each byte of which may be two as JSON, and the rest.
_AROUND_BYTES: Final = 3 * KIB


class FileRead(Struct, frozen=True, kw_only=True):
    """What ``read_file`` gives. ``sha256`` is null for a file too large to be hashed.

    ``truncated``: there is more of what was asked for; it goes on at ``next_line``. ``lines`` is how many
    there are in the file, as far as it was read.
    """

    path: str
    start_line: int
    line_count: int
    content: str
    bytes_read: int
    size: int
    lines: int
    sha256: str | None
    encoding: str
    binary: bool
    truncated: bool
    next_line: int | UnsetType = UNSET
    note: str | UnsetType = UNSET
    content_base64: str | UnsetType = UNSET


class _Scan:
    """One pass over a file: its digest, its lines counted, and the bytes of those that are wanted."""

    def __init__(self, start_line: int, line_count: int | None) -> None:
        self._before = start_line - 1
        self._through = self._before + line_count if line_count is not None else None
        self._digest = hashlib.sha256()
        self._ends = 0
        self._last = b"\n"
        self.size = 0
        self.chosen = bytearray()
        self.cut = False

    def take(self, piece: bytes) -> None:
        """Go on."""
        self._digest.update(piece)
        self.size += len(piece)
        first = _after(piece, self._before - self._ends)
        beyond = len(piece) if self._through is None else _after(piece, self._through - self._ends)
        self.chosen += piece[first:beyond]
        self.cut = self.cut or len(self.chosen) > MAX_READ_BYTES
        del self.chosen[MAX_READ_BYTES:]
        self._ends += piece.count(b"\n")
        self._last = piece[-1:]

    @property
    def lines(self) -> int:
        """How many lines there are so far; the last one need not have an end."""
        return self._ends + (self._last != b"\n")

    @property
    def sha256(self) -> str:
        """The digest of all that was taken, in hex."""
        return self._digest.hexdigest()

    @property
    def complete(self) -> bool:
        """Whether every line that was wanted has been seen to its end."""
        return not self.cut and self._through is not None and self._ends >= self._through


def _after(piece: bytes, ends: int) -> int:
    """Where the text after so many line ends begins; the piece's own end, where it has not so many."""
    if ends > piece.count(b"\n"):
        return len(piece)
    place = 0
    for _ in range(ends):
        place = piece.index(b"\n", place) + 1
    return place


def read_file(root: Root, asked: ReadFile, check: Check = still_wanted) -> Outcome:
    """Read. What does not fit into what a model reads at once is all in the outcome's ``whole``.

    Errors: ToolError.
    """
    path = relative(asked.path, root.workspace)
    scan = _Scan(asked.start_line, asked.line_count)
    with explained(path), root.file(path) as descriptor:
        for piece in pieces(descriptor, check):
            scan.take(piece)
        size = max(os.fstat(descriptor).st_size, scan.size)
    if asked.start_line > max(scan.lines, 1):
        reach = "has" if size == scan.size else f"has, in the first {MAX_HASHED_BYTES} bytes,"
        raise ToolError(f"{path} {reach} {scan.lines} lines; line {asked.start_line} cannot be read")
    every = _shown(path, asked, scan, size, bytes(scan.chosen))
    whole = msgspec.json.encode(every)
    if len(whole) <= MAX_TOOL_TEXT_BYTES:
        return Outcome(whole.decode())
    cost = partial(_cost, text=not every.binary, base64=asked.include_base64)
    part = _shown(path, asked, scan, size, bytes(scan.chosen[: _fitting(bytes(scan.chosen), cost)]))
    return Outcome(msgspec.json.encode(part).decode(), full_output=whole)


def _shown(path: str, asked: ReadFile, scan: _Scan, size: int, chosen: bytes) -> FileRead:
    """The result that shows so much of the chosen lines."""
    partly = scan.cut or len(chosen) < len(scan.chosen)
    text = _text(chosen, partly)
    lines = chosen.count(b"\n") + (chosen[-1:] not in (b"", b"\n"))
    truncated = partly or (size > scan.size and not scan.complete)
    return FileRead(
        path=path,
        start_line=asked.start_line,
        line_count=lines,
        content=text or "",
        bytes_read=len(chosen),
        size=size,
        lines=scan.lines,
        sha256=scan.sha256 if size == scan.size else None,
        encoding="utf-8" if text is not None else "binary",
        binary=text is None,
        truncated=truncated,
        next_line=asked.start_line + lines if truncated else UNSET,
        note=_note(size, scan.size),
        content_base64=b64encode(chosen).decode() if asked.include_base64 else UNSET,
    )


def _note(size: int, read: int) -> str | UnsetType:
    if size == read:
        return UNSET
    return f"only the first {read} of {size} bytes were looked at: too large to be hashed, or growing"


def _text(chosen: bytes, partly: bool) -> str | None:
    """The text that bytes are; None for what is none. The last character may have been cut in two."""
    try:
        text = chosen.decode()
    except UnicodeDecodeError as error:
        if not partly or error.start < len(chosen) - 3 or error.reason != "unexpected end of data":
            return None
        text = chosen[: error.start].decode()
    return None if "\0" in text else text


def _cost(piece: bytes, *, text: bool, base64: bool) -> int:
    """What a piece takes as JSON."""
    as_text = len(msgspec.json.encode(piece.decode(errors="replace"))) - 2 if text else 0
    return as_text + (len(piece) * 4 // 3 + 4 if base64 else 0)


def _fitting(chosen: bytes, cost: Callable[[bytes], int]) -> int:
    """How many bytes can be shown: whole lines, but of a first line that is too long its beginning."""
    left = MAX_TOOL_TEXT_BYTES - _AROUND_BYTES
    taken = 0
    for line in chosen.split(b"\n"):
        ended = chosen[taken : taken + len(line) + 1]
        left -= cost(ended)
        if left < 0:
            break
        taken += len(ended)
    if taken == 0:
        taken = MAX_TOOL_TEXT_BYTES
        while cost(chosen[:taken]) > MAX_TOOL_TEXT_BYTES - _AROUND_BYTES:
            taken = taken * 3 // 4
    return taken
