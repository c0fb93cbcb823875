"""The tools ``list_files``, ``glob_search`` and ``grep_search``: bounded results, in a fixed order.

``grep_search`` uses ripgrep if it is installed, and else searches for literal text. ripgrep opens files by
name. It follows no links, but between its check and its open another process could place one, and it would
read a file outside. So its output is not passed on: each line is read again, through descriptors that cannot
lead outside, and returned if it exists and is equal. Files that the rules close are not read.

ripgrep runs in the searched directory, held open by its descriptor, with none of the daemon's environment. It
is killed as soon as the result is full or the caller is cancelled.
"""

import os
import posixpath
import re
import stat
import subprocess
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta, Raw, Struct

from kheishd.hooks.os.files.confinement import Root, explain_errors, open_root, relative_path
from kheishd.hooks.os.files.edits import Check, check_cancelled, read_pieces
from kheishd.hooks.os.files.walk import Glob, Walk
from kheishd.kernel.hook import Arguments, ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import (
    MAX_EDIT_BYTES,
    MAX_GREP_LINE_BYTES,
    MAX_GREP_OUTPUT_BYTES,
    MAX_MATCH_BYTES,
    MAX_MATCHES,
    MAX_PATTERN_BYTES,
)
from protocol.limits.units import KIB

Base = Annotated[str, Meta(description="The directory to search, relative to the workspace.")]
MaxResults = Annotated[int, Meta(ge=1, description=f"Maximum number of results (at most {MAX_MATCHES}).")]


class ListFiles(Arguments, frozen=True):
    """Arguments of ``list_files``."""

    base: Base = "."
    limit: MaxResults = MAX_MATCHES


class SearchFiles(Arguments, frozen=True):
    """Arguments of ``glob_search`` and ``grep_search``."""

    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_BYTES)]
    base: Base = "."
    limit: MaxResults = MAX_MATCHES


# The JSON around the results: a base and a pattern of 1 KiB each, of which every byte may take two.
_FRAME_BYTES: Final = 6 * KIB


class TextMatch(Struct, frozen=True):
    """A line that a search found. Of a long line, ``text`` is the part around the match."""

    path: str
    line: int
    text: str


class BoundedResults:
    """Results, up to the limits of one tool result. ``truncated``: there were more."""

    def __init__(self, limit: int) -> None:
        self.items: list[Any] = []
        self.truncated = False
        self._limit = min(limit, MAX_MATCHES)
        self._room = MAX_TOOL_TEXT_BYTES - _FRAME_BYTES

    def add(self, item: str | TextMatch) -> bool:
        """Add a result; return False if there is no room for it."""
        size = len(msgspec.json.encode(item)) + 1
        self.truncated = len(self.items) == self._limit or size > self._room
        if not self.truncated:
            self.items.append(item)
            self._room -= size
        return not self.truncated


def encode(result: dict[str, Any]) -> str:
    """Encode a result as JSON text for the model."""
    return msgspec.json.encode(result).decode()


def list_files(root: Root, arguments: ListFiles, check: Check = check_cancelled) -> str:
    """List everything below a directory, nearest first; directories end in ``/``. Errors: ToolError."""
    base = relative_path(arguments.base, root.workspace)
    walk = Walk(root, base, check=check)
    paths = (f"{entry.path}/" if entry.directory else entry.path for entry in walk)
    return _encode_paths(walk, paths, arguments.limit, base=base)


def glob_search(root: Root, arguments: SearchFiles, check: Check = check_cancelled) -> str:
    """List the files below a directory that match a pattern, nearest first. Errors: ToolError."""
    base = relative_path(arguments.base, root.workspace)
    glob = Glob(arguments.pattern)
    walk = Walk(root, base, glob.may_match_below, check)
    paths = (entry.path for entry in walk if not entry.directory and glob.matches(entry.below))
    return _encode_paths(walk, paths, arguments.limit, base=base, pattern=arguments.pattern)


def _encode_paths(walk: Walk, paths: Iterable[str], limit: int, **head: str) -> str:
    results = BoundedResults(limit)
    for path in paths:
        if not results.add(path):
            break
    unnamed = {"unnamed": walk.unnamed} if walk.unnamed else {}
    truncated = results.truncated or walk.truncated
    return encode({**head, "paths": results.items, "truncated": truncated, **unnamed})


# Characters that are not literal in a pattern of ripgrep, or at its end.
_SPECIAL: Final = re.compile(r"[^\w/.-]")

PathCheck = Callable[[str], bool]
"""Whether rules keep the content of a path from the model."""

# Literal text.


class FileCheck:
    """The files that a search must not read, by their rules, and those that it could not read; counted.

    The count of denied files does not depend on the pattern: else a model could find their content by
    searching for it, letter by letter.
    """

    def __init__(self, is_closed: PathCheck) -> None:
        self.is_closed = is_closed
        self._denied: set[str] = set()
        self._unread: set[str | bytes] = set()

    def may_read(self, path: str) -> bool:
        """Whether a file may be read; if not, it is counted."""
        if self.is_closed(path):
            self._denied.add(path)
        return path not in self._denied

    def exclude(self, walk: Walk) -> Iterator[str]:
        """Yield ripgrep's options that exclude the files that must not be read. Errors: ToolError."""
        excluded: set[str] = set()
        for entry in walk:
            # A directory is excluded as a whole if the rules close everything in it.
            closed = self.is_closed(f"{entry.path}/\0") if entry.directory else not self.may_read(entry.path)
            if closed:
                excluded.add(entry.below)
                if posixpath.dirname(entry.below) not in excluded:
                    yield "--glob=!/" + _SPECIAL.sub(r"\\\g<0>", entry.below)

    def miss(self, name: str | bytes) -> None:
        """Count a file that could not be read, or named."""
        self._unread.add(name)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of these files, as fields of the result; without zeros."""
        numbers = {"denied_files": len(self._denied), "unread_files": len(self._unread)}
        return {name: number for name, number in numbers.items() if number}


def show_all(path: str) -> bool:
    """Close no file."""
    return False


def literal_search(
    root: Root, arguments: SearchFiles, check: Check = check_cancelled, is_closed: PathCheck = show_all
) -> str:
    """Find the lines that contain a text. Errors: ToolError.

    Without ripgrep there is no safe way to run a stranger's regular expression.
    """
    base = relative_path(arguments.base, root.workspace)
    text = arguments.pattern.encode(errors="replace")
    walk = Walk(root, base, check=check)
    results = BoundedResults(arguments.limit)
    files = FileCheck(is_closed)
    matches = (
        match for entry in walk if entry.file for match in _search_file(root, entry.path, text, check, files)
    )
    for match in matches:
        if not results.add(match):
            break
    truncated = results.truncated or walk.truncated
    return encode({"matches": results.items, "truncated": truncated, "engine": "literal", **files.counts})


def _search_file(root: Root, path: str, text: bytes, check: Check, files: FileCheck) -> Iterator[TextMatch]:
    """Yield the matches in a file; none if it is binary or large, or cannot or must not be read."""
    if not files.may_read(path):
        return
    try:
        with explain_errors(path), root.file(path) as descriptor:
            content = b"".join(read_pieces(descriptor, check, MAX_EDIT_BYTES + 1))
    except ToolError:
        files.miss(path)
        return
    if text not in content or b"\0" in content or len(content) > MAX_EDIT_BYTES:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        start = line.find(text)
        if start >= 0:
            yield TextMatch(path, number, excerpt_around(line, start))


def excerpt_around(line: bytes, start: int) -> str:
    """Return a line without its end; of a long line, the part around byte ``start``."""
    line = line.rstrip(b"\r\n")
    if len(line) <= MAX_MATCH_BYTES:
        return line.decode(errors="replace")
    first = max(0, min(start - MAX_MATCH_BYTES // 4, len(line) - MAX_MATCH_BYTES))
    return line[first : first + MAX_MATCH_BYTES].decode(errors="replace")


# ripgrep.

RIPGREP_OPTIONS: Final = (
    "--json",
    "--no-config",
    "--hidden",
    "--glob=!.git",
    # ``$`` matches before CR LF.
    "--crlf",
    "--sort=path",
    f"--max-count={MAX_MATCHES + 1}",
    f"--max-filesize={MAX_EDIT_BYTES}",
)
# The kernel limits a program's arguments to two megabytes.
MAX_EXCLUDED_CHARACTERS: Final = 400_000

IGNORE_FILES: Final = frozenset((".gitignore", ".ignore", ".rgignore"))

# A search without a match is silent, too.
MAX_SILENCE_SECONDS: Final = 3.0

RIPGREP_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8"}

_READ_BYTES: Final = 64 * KIB
_MAX_COMPLAINT_CHARACTERS: Final = 500
_FAILED: Final = 2

# The complaint about a file that cannot be read.
_UNREADABLE: Final = re.compile(rb"rg: (.*): [^:]*\(os error \d+\)$")

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class _RipgrepText(Struct):
    """Text, or the base64 of bytes that are not UTF-8."""

    text: str | None = None
    base64: str | None = msgspec.field(default=None, name="bytes")

    def raw(self) -> bytes:
        """Return the original bytes."""
        return self.text.encode() if self.text is not None else b64decode(self.base64 or "")


class _RipgrepSpan(Struct):
    start: int


class _RipgrepMatch(Struct):
    """A match, as ripgrep reports it."""

    path: _RipgrepText
    lines: _RipgrepText
    line_number: int
    absolute_offset: int
    submatches: list[_RipgrepSpan]


class _RipgrepMessage(Struct):
    type: str
    data: Raw = Raw(b"")


_message_decoder = msgspec.json.Decoder(_RipgrepMessage)
_match_decoder = msgspec.json.Decoder(_RipgrepMatch)


class RipgrepLines:
    """Splitter of ripgrep's output into lines, bounded. ``skipped``: a line was too long and was left out.

    ``truncated``: there is more output than the limit. ``complaint`` is the output that is not JSON, without
    the complaints about ``unreadable`` files.
    """

    def __init__(self) -> None:
        self.truncated = False
        self.skipped = False
        self.unreadable: list[bytes] = []
        self.complaint = ""
        self._total = 0
        self._rest = b""
        self._skipping = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that end in this piece; an empty piece ends the output."""
        self._total += len(piece)
        self.truncated = self._total > MAX_GREP_OUTPUT_BYTES
        *lines, self._rest = (self._rest + (piece or b"\n")).split(b"\n")
        if lines and self._skipping:
            del lines[0]
            self._skipping = False
        if self._skipping or len(self._rest) > MAX_GREP_LINE_BYTES:
            self._skipping = self.skipped = True
            self._rest = b""
        complaints = [line for line in lines if line and not line.startswith(b"{")]
        unreadable = [match[1] for match in map(_UNREADABLE.match, complaints) if match is not None]
        self.unreadable += unreadable
        complaints = [line for line in complaints if _UNREADABLE.match(line) is None]
        self.complaint = b"\n".join([self.complaint.encode(), *complaints]).decode(errors="replace").strip()
        self.complaint = self.complaint[:_MAX_COMPLAINT_CHARACTERS]
        return [line for line in lines if line.startswith(b"{")]


async def regex_search(
    program: str,
    workspace: str,
    arguments: SearchFiles,
    in_thread: InThread,
    is_closed: PathCheck = show_all,
) -> str:
    """Find the lines that match a regular expression, with files in the order of their paths.

    Errors: ToolError; OSError if the program cannot be run.
    """
    pattern = f"--regexp={_require_passable(arguments.pattern)}"
    base = relative_path(arguments.base, workspace)
    results, lines, files = BoundedResults(arguments.limit), RipgrepLines(), FileCheck(is_closed)
    with ExitStack() as stack:
        root, directory = await in_thread(partial(_open_directory, stack, workspace, base))
        excluded: list[str] = []
        if is_closed is not show_all:
            excluded = await in_thread(lambda: list(files.exclude(Walk(root, base))))
        if sum(map(len, excluded)) > MAX_EXCLUDED_CHARACTERS:
            raise ToolError(f"the permission rules close too many files below {base}; search in a part of it")
        command = [program, *RIPGREP_OPTIONS, *excluded, pattern, "--", "."]
        async with _running(command, directory) as process:
            assert process.stdout is not None
            more = True
            while more and not results.truncated and not lines.truncated:
                piece = None
                with trio.move_on_after(MAX_SILENCE_SECONDS):
                    piece = await process.stdout.receive_some(_READ_BYTES)
                if piece is None:
                    await in_thread(partial(require_ignore_files, root, Walk(root, base)))
                    piece = await process.stdout.receive_some(_READ_BYTES)
                more = bool(piece)
                await in_thread(partial(_confirm, root, base, lines.feed(bytes(piece)), results, files))
            if not more and not results.items and lines.complaint and await process.wait() == _FAILED:
                raise ToolError(f"the search failed: {lines.complaint}")
    for name in lines.unreadable:
        files.miss(name)
    truncated = results.truncated or lines.truncated or lines.skipped
    return encode({"matches": results.items, "truncated": truncated, "engine": "ripgrep", **files.counts})


def require_ignore_files(root: Root, walk: Walk) -> None:
    """Reject a list of ignored files that is a pipe: ripgrep waits for its writer. Errors: ToolError."""
    for entry in walk:
        if posixpath.basename(entry.path) in IGNORE_FILES and not (entry.file or entry.directory):
            with suppress(OSError), root.parent(entry.path) as (directory, name):
                if not stat.S_ISREG(os.stat(name, dir_fd=directory).st_mode):
                    raise ToolError(
                        f"{entry.path} is no ordinary file, and the search waits for it; remove it"
                    )


def _require_passable(pattern: str) -> str:
    """Return the pattern if it can be a program's argument. Errors: ToolError."""
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise ToolError("the pattern contains half a character (a lone surrogate)") from None
    if "\0" in pattern:
        raise ToolError(r"the pattern contains a zero character; write it as \x00")
    return pattern


def _open_directory(stack: ExitStack, workspace: str, base: str) -> tuple[Root, int]:
    root = stack.enter_context(open_root(workspace))
    with explain_errors(base):
        return root, stack.enter_context(root.directory(base))


@asynccontextmanager
async def _running(command: list[str], directory: int) -> AsyncIterator[trio.Process]:
    """Run a program in a directory while the block runs; afterwards it has ended."""
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # The child changes to it before it closes the descriptors that it does not inherit.
        cwd=f"/proc/self/fd/{directory}",
        env=RIPGREP_ENVIRONMENT,
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


def _confirm(root: Root, base: str, lines: list[bytes], results: BoundedResults, files: FileCheck) -> None:
    """Add the matches that a second, confined read confirms; others differ, or have an invalid path."""
    for line in lines:
        message = _message_decoder.decode(line)
        if message.type != "match":
            continue
        match = _match_decoder.decode(message.data)
        claimed = match.lines.raw()
        # The rules may close a file that has just been made, or whose name no path can have.
        if files.is_closed(posixpath.normpath(posixpath.join(base, os.fsdecode(match.path.raw())))):
            continue
        if match.path.text is None:
            files.miss(match.path.raw())
            continue
        try:
            path = relative_path(posixpath.join(base, match.path.text), root.workspace)
            with explain_errors(path), root.file(path) as descriptor:
                # ripgrep does not count a byte order mark.
                mark = len(BOM_UTF8) if os.pread(descriptor, len(BOM_UTF8), 0) == BOM_UTF8 else 0
                actual = os.pread(descriptor, len(claimed), match.absolute_offset + mark)
        except ToolError:
            files.miss(match.path.raw())
            continue
        if actual != claimed:
            # Changed meanwhile, replaced by a link, or in another encoding.
            files.miss(path)
            continue
        start = match.submatches[0].start if match.submatches else 0
        if not results.add(TextMatch(path, match.line_number, excerpt_around(actual, start))):
            return
