"""The tool ``read_file``: some lines of a file, and the digest of the whole file."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kheishd.hooks.os.files.confinement import Root, explain_errors, relative_path
from kheishd.hooks.os.files.edits import Check, FilePath, check_cancelled, read_pieces
from kheishd.kernel.hook import Arguments, Outcome, ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import MAX_HASHED_BYTES, MAX_READ_BYTES
from protocol.limits.units import KIB

# The JSON around the content: a path of 1 KiB, of which each byte may take two, and the numbers.
_FRAME_BYTES: Final = 3 * KIB


class ReadFile(Arguments, frozen=True):
    """Arguments of ``read_file``."""

    path: FilePath
    start_line: Annotated[int, Meta(ge=1, description="The first line to read, from 1.")] = 1
    line_count: Annotated[int, Meta(ge=1, description="Maximum number of lines to read.")] | None = None
    include_base64: Annotated[bool, Meta(description="Also return the bytes, base64-encoded.")] = False


class FileRead(Struct, frozen=True, kw_only=True):
    """The result of ``read_file``. ``sha256`` is null for a file too large to be hashed.

    ``truncated``: there is more of the requested lines, from ``next_line`` on. ``lines`` is the number of
    lines in the file, as far as it was read.
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
    """One pass over a file: its digest, its number of lines, and the bytes of the requested lines."""

    def __init__(self, start_line: int, line_count: int | None) -> None:
        self._first = start_line - 1
        self._beyond = self._first + line_count if line_count is not None else None
        self._digest = hashlib.sha256()
        self._ends = 0
        self._last = b"\n"
        self.size = 0
        self.selected = bytearray()
        self.truncated = False

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the file."""
        self._digest.update(piece)
        self.size += len(piece)
        first = _offset_after(piece, self._first - self._ends)
        beyond = len(piece) if self._beyond is None else _offset_after(piece, self._beyond - self._ends)
        self.selected += piece[first:beyond]
        self.truncated = self.truncated or len(self.selected) > MAX_READ_BYTES
        del self.selected[MAX_READ_BYTES:]
        self._ends += piece.count(b"\n")
        self._last = piece[-1:]

    @property
    def lines(self) -> int:
        """The number of lines so far; the last one need not have an end."""
        return self._ends + (self._last != b"\n")

    @property
    def sha256(self) -> str:
        """The digest of all pieces, in hex."""
        return self._digest.hexdigest()

    @property
    def complete(self) -> bool:
        """Whether every requested line was read to its end."""
        return not self.truncated and self._beyond is not None and self._ends >= self._beyond


def _offset_after(piece: bytes, ends: int) -> int:
    """Return the offset after a number of line ends; the length of the piece if it has fewer."""
    if ends > piece.count(b"\n"):
        return len(piece)
    offset = 0
    for _ in range(ends):
        offset = piece.index(b"\n", offset) + 1
    return offset


def read_file(
    root: Root,
    arguments: ReadFile,
    check: Check = check_cancelled,
    scrub: Callable[[bytes], bytes] = bytes,
    scrub_cut: Callable[[bytes], bytes] = bytes,
) -> Outcome:
    """Read lines of a file. If they exceed the limit of a result, ``full_output`` has all of them.

    Errors: ToolError.
    """
    path = relative_path(arguments.path, root.workspace)
    scan = _Scan(arguments.start_line, arguments.line_count)
    with explain_errors(path), root.file(path) as descriptor:
        for piece in read_pieces(descriptor, check):
            scan.feed(piece)
        size = max(os.fstat(descriptor).st_size, scan.size)
    if arguments.start_line > max(scan.lines, 1):
        reach = "has" if size == scan.size else f"has, in the first {MAX_HASHED_BYTES} bytes,"
        raise ToolError(f"{path} {reach} {scan.lines} lines; line {arguments.start_line} cannot be read")
    selected = scrub_cut(bytes(scan.selected)) if scan.truncated else bytes(scan.selected)
    complete = _result(path, arguments, scan, size, selected)
    encoded = msgspec.json.encode(complete)
    if len(encoded) <= MAX_TOOL_TEXT_BYTES:
        return Outcome(encoded.decode())
    # Scrubbed before it is cut: the rest of a secret would not be recognized.
    selected = scrub(selected)
    fitting = _fitting_bytes(selected, text=not complete.binary, base64=arguments.include_base64)
    part = _result(path, arguments, scan, size, selected[:fitting])
    return Outcome(msgspec.json.encode(part).decode(), full_output=encoded)


def _result(path: str, arguments: ReadFile, scan: _Scan, size: int, content: bytes) -> FileRead:
    """Return the result with this part of the selected lines."""
    cut = scan.truncated or len(content) < len(scan.selected)
    text = _decode(content, cut)
    lines = content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
    truncated = cut or (size > scan.size and not scan.complete)
    partly = f"only the first {scan.size} of {size} bytes were read: the file is too large, or growing"
    return FileRead(
        path=path,
        start_line=arguments.start_line,
        line_count=lines,
        content=text or "",
        bytes_read=len(content),
        size=size,
        lines=scan.lines,
        sha256=scan.sha256 if size == scan.size else None,
        encoding="utf-8" if text is not None else "binary",
        binary=text is None,
        truncated=truncated,
        next_line=arguments.start_line + lines if truncated else UNSET,
        note=UNSET if size == scan.size else partly,
        content_base64=b64encode(content).decode() if arguments.include_base64 else UNSET,
    )


def _decode(content: bytes, cut: bool) -> str | None:
    """Return the bytes as text; None if they are not text. A cut may be inside the last character."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if not cut or error.start < len(content) - 3 or error.reason != "unexpected end of data":
            return None
        text = content[: error.start].decode()
    return None if "\0" in text else text


def _fitting_bytes(content: bytes, *, text: bool, base64: bool) -> int:
    """Return the number of bytes that fit: whole lines, or the beginning of a first line that is too long."""

    def cost(piece: bytes) -> int:
        as_text = len(msgspec.json.encode(piece.decode(errors="replace"))) - 2 if text else 0
        return as_text + (len(piece) * 4 // 3 + 4 if base64 else 0)

    room = MAX_TOOL_TEXT_BYTES - _FRAME_BYTES
    fitting = 0
    for line in content.split(b"\n"):
        ended = content[fitting : fitting + len(line) + 1]
        room -= cost(ended)
        if room < 0:
            break
        fitting += len(ended)
    if fitting == 0:
        fitting = MAX_TOOL_TEXT_BYTES
        while cost(content[:fitting]) > MAX_TOOL_TEXT_BYTES - _FRAME_BYTES:
            fitting = fitting * 3 // 4
    return fitting
