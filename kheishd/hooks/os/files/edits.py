"""Edits of files: compute the changes of a call from the state of its files, for all phases of the call.

A call is shown to a person (preview), recorded (evidence), made, and probed after a crash. All four read the
files' state and compute the changes from it with the same pure function, so the approved, recorded and
written content cannot differ. Functions that take a workspace wait for the disk; they run in threads.
"""

import binascii
import hashlib
import os
import stat
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated

import trio
from msgspec import Meta

from kheishd.hooks.os.files.attributes import FileAttributes, read_attributes
from kheishd.hooks.os.files.confinement import ROOT, Root, explain_errors, open_file, relative_path
from kheishd.kernel.hook import Arguments, ToolError
from protocol.limits.call import MAX_SUBJECT_BYTES
from protocol.limits.files import (
    MAX_EDIT_BYTES,
    MAX_HASHED_BYTES,
    MAX_PATCH_BYTES,
    MAX_PATCH_FILES,
    MAX_PATCH_HUNKS,
)
from protocol.structs import Value

FilePath = Annotated[str, Meta(min_length=1, description="The file, relative to the workspace.")]
FileDigest = Annotated[
    str,
    Meta(
        pattern="^[0-9a-fA-F]{64}$",
        description="The SHA-256, from read_file, that the file must still have; else nothing is done.",
    ),
]


class WriteFile(Arguments, frozen=True):
    """Arguments of ``write_file``."""

    path: FilePath
    content: Annotated[str, Meta(description="The whole new content, as text.")] | None = None
    content_base64: Annotated[str, Meta(description="The whole new content, in base64.")] | None = None
    expected_sha256: FileDigest | None = None


class EditFile(Arguments, frozen=True):
    """Arguments of ``edit_file``, and a hunk of ``apply_patch``."""

    path: FilePath
    old_text: Annotated[
        str, Meta(min_length=1, description="The exact text to replace; long enough to occur only once.")
    ]
    new_text: Annotated[str, Meta(description="The replacement.")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence.")] = False
    expected_sha256: FileDigest | None = None


class ApplyPatch(Arguments, frozen=True):
    """Arguments of ``apply_patch``."""

    hunks: Annotated[list[EditFile], Meta(min_length=1, max_length=MAX_PATCH_HUNKS)]


EditArguments = WriteFile | EditFile | ApplyPatch

# The state of a file.

ABSENT = "absent"
"""Stands for the digest of a missing file."""

PIECE_BYTES = 1 << 18

Check = Callable[[], object]
"""Called from time to time during long work: an exception that it raises ends the work."""


def check_cancelled() -> None:
    """End work in one of trio's threads if its caller was cancelled. Errors: trio.Cancelled."""
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:
        # Outside such a thread there is no caller that could have been cancelled.
        return


class FileState(Value, frozen=True):
    """The state of a file. ``content`` is None if the file is missing or too large to be edited.

    ``digest`` is the SHA-256 of the whole file, in hex. ``stamp`` differs as soon as the file does.
    """

    path: str
    digest: str
    size: int = 0
    content: bytes | None = None
    attributes: FileAttributes | None = None
    stamp: tuple[int, ...] | None = None

    @property
    def absent(self) -> bool:
        """Whether there is no such file."""
        return self.digest == ABSENT


def read_state(root: Root, path: str, check: Check = check_cancelled) -> FileState:
    """Read the state of a file.

    Errors: ToolError if it is not an ordinary file, cannot be read or written, or is over MAX_HASHED_BYTES.
    """
    digest = hashlib.sha256()
    pieces: list[bytes] | None = []
    size = 0
    with explain_errors(path), ExitStack() as stack:
        try:
            directory, name = stack.enter_context(root.parent(path))
            descriptor = open_file(directory, name, path)
        except FileNotFoundError:
            return FileState(path, ABSENT)
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not os.access(name, os.W_OK, dir_fd=directory):
            # A rename would replace it all the same, because only its directory's mode matters then.
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise ToolError(f"{path} is read-only for the daemon's user (its mode is {mode})")
        if status.st_size > MAX_HASHED_BYTES:
            raise ToolError(
                f"{path} has {status.st_size} bytes; file tools change nothing over {MAX_HASHED_BYTES}"
            )
        attributes = read_attributes(descriptor, status)
        for piece in read_pieces(descriptor, check):
            digest.update(piece)
            size += len(piece)
            pieces = [*pieces, piece] if pieces is not None and size <= MAX_EDIT_BYTES else None
    content = b"".join(pieces) if pieces is not None else None
    return FileState(path, digest.hexdigest(), size, content, attributes, stamp_of(status))


def read_pieces(descriptor: int, check: Check, max_bytes: int = MAX_HASHED_BYTES) -> Iterator[bytes]:
    """Yield a file's content, at most ``max_bytes`` of it, even if the file grows meanwhile."""
    remaining = max_bytes
    while remaining > 0 and (piece := os.read(descriptor, min(PIECE_BYTES, remaining))):
        check()
        remaining -= len(piece)
        yield piece


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return values that distinguish two states of a file without reading it; renaming changes none."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


# Edits and the changes that they make.


class WriteEdit(Value, frozen=True):
    """An edit that replaces the whole content of a file. ``is_text``: the model gave it as text."""

    path: str
    content: bytes
    expected: str | None
    is_text: bool = False


class ReplaceEdit(Value, frozen=True):
    """An edit that replaces a text in a file."""

    path: str
    old: str
    new: str
    everywhere: bool
    expected: str | None


Edit = WriteEdit | ReplaceEdit


class FileChange(Value, frozen=True):
    """The change of one file."""

    state: FileState
    content: bytes
    replacements: int = 0

    @property
    def path(self) -> str:
        """The file's path."""
        return self.state.path

    @property
    def digest(self) -> str:
        """The SHA-256 of the new content, in hex."""
        return hashlib.sha256(self.content).hexdigest()


def written_paths(arguments: EditArguments) -> list[str]:
    """Return the paths that a call writes, as the model gave them."""
    hunks = arguments.hunks if isinstance(arguments, ApplyPatch) else [arguments]
    return [hunk.path for hunk in hunks]


def edits_of(arguments: EditArguments, workspace: str) -> list[Edit]:
    """Return the edits of a call, in order. Errors: ToolError."""
    if isinstance(arguments, WriteFile):
        path = _file_path(arguments.path, workspace)
        content, is_text = _new_content(arguments), arguments.content is not None
        return [WriteEdit(path, content, arguments.expected_sha256, is_text)]
    hunks = arguments.hunks if isinstance(arguments, ApplyPatch) else [arguments]
    edits = []
    for hunk in hunks:
        if hunk.old_text == hunk.new_text:
            raise ToolError(f"{hunk.path}: old_text and new_text are the same, so nothing would change")
        path = _file_path(hunk.path, workspace)
        edits.append(ReplaceEdit(path, hunk.old_text, hunk.new_text, hunk.replace_all, hunk.expected_sha256))
    paths = paths_of(edits)
    if len(paths) > MAX_PATCH_FILES or len("\n".join(paths).encode()) > MAX_SUBJECT_BYTES:
        raise ToolError(
            f"one patch changes at most {MAX_PATCH_FILES} files, whose paths together have at most "
            f"{MAX_SUBJECT_BYTES} bytes; make several patches"
        )
    return [*edits]


def paths_of(edits: Sequence[Edit]) -> list[str]:
    """Return the distinct paths of the edits, sorted."""
    return sorted({edit.path for edit in edits})


def _file_path(text: str, workspace: str) -> str:
    path = relative_path(text, workspace)
    if path == ROOT:
        raise ToolError("that is the workspace itself, a directory; name a file in it")
    return path


def _new_content(arguments: WriteFile) -> bytes:
    text, base64 = arguments.content, arguments.content_base64
    if (text is None) == (base64 is None):
        raise ToolError("give exactly one of 'content' and 'content_base64'")
    if text is not None:
        content = _encode(text)
    else:
        try:
            content = b64decode("".join((base64 or "").split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ToolError(f"content_base64 is not base64: {error}") from None
    _require_editable(arguments.path, len(content))
    return content


def _require_editable(path: str, size: int) -> None:
    if size > MAX_EDIT_BYTES:
        raise ToolError(f"{path} would have {size} bytes; the limit is {MAX_EDIT_BYTES}")


def read_states(root: Root, edits: Sequence[Edit]) -> dict[str, FileState]:
    """Read the states of the files of some edits, by path. Errors: ToolError."""
    return {path: read_state(root, path) for path in paths_of(edits)}


def plan_changes(edits: Sequence[Edit], states: Mapping[str, FileState]) -> list[FileChange]:
    """Return the changes of the files, sorted by path; each edit applies to the result of the previous ones.

    Errors: ToolError for the first edit that is impossible; then no change is made.
    """
    changes: dict[str, FileChange] = {}
    for edit in edits:
        state = states[edit.path]
        if edit.expected is not None and edit.expected.lower() != state.digest:
            actual = "is missing" if state.absent else f"has the SHA-256 {state.digest}"
            raise ToolError(
                f"{edit.path} {actual}, not the expected {edit.expected}; read it again, then change it"
            )
        previous = changes.get(edit.path)
        match edit:
            case WriteEdit(content=content, is_text=is_text):
                content = _keep_form(content, state.content or b"") if is_text else content
                _require_editable(edit.path, len(content))
                changes[edit.path] = FileChange(state, content)
            case ReplaceEdit():
                content, count = replace_text(edit, state, previous.content if previous else state.content)
                count += previous.replacements if previous else 0
                changes[edit.path] = FileChange(state, content, count)
    size = sum(max(change.state.size, len(change.content)) for change in changes.values())
    if len(changes) > 1 and size > MAX_PATCH_BYTES:
        raise ToolError(
            f"the files of one patch may have {MAX_PATCH_BYTES} bytes together; these have {size}"
        )
    return [changes[path] for path in sorted(changes)]


def replace_text(edit: ReplaceEdit, state: FileState, content: bytes | None) -> tuple[bytes, int]:
    """Return the content with the text replaced, and the number of replacements. Line ends are preserved.

    Errors: ToolError if the text does not occur, or too often.
    """
    text = _editable_text(edit.path, state, content)
    old, new = _with_line_ends_of(text, edit)
    count = text.count(old)
    if count == 0:
        raise ToolError(
            f"{edit.path} does not contain old_text; it must match exactly, with spaces and indentation. "
            "Read the file again"
        )
    if not edit.everywhere and (count > 1 or text.find(old, text.find(old) + 1) >= 0):
        raise ToolError(
            f"old_text occurs {max(count, 2)} times in {edit.path}; give more of the surrounding text so "
            "that it occurs once, or set replace_all"
        )
    # Before the text is made: a short text that occurs often, with a long replacement, would fill the memory.
    _require_editable(edit.path, len(_encode(text)) + count * (len(_encode(new)) - len(_encode(old))))
    return _encode(text.replace(old, new)), count


def _editable_text(path: str, state: FileState, content: bytes | None) -> str:
    if content is None:
        if state.absent:
            raise ToolError(f"there is no {path}; write_file makes new files")
        raise ToolError(f"{path} has {state.size} bytes; files over {MAX_EDIT_BYTES} are not edited")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not UTF-8 (byte {error.start}), so it is not edited") from None
    if "\0" in text:
        raise ToolError(f"{path} is binary: it contains zero bytes, so it is not edited")
    return text


def _keep_form(content: bytes, previous: bytes) -> bytes:
    """Return a new text with the byte order mark and the line ends of the previous content.

    A text with a carriage return has its own line ends already.
    """
    if previous.startswith(BOM_UTF8) and not content.startswith(BOM_UTF8):
        content = BOM_UTF8 + content
    ends = previous.count(b"\n")
    if ends and previous.count(b"\r\n") == ends and b"\r" not in content:
        content = content.replace(b"\n", b"\r\n")
    return content


def _with_line_ends_of(text: str, edit: ReplaceEdit) -> tuple[str, str]:
    """Return old and new text with the file's own line ends, if all of those are CR LF."""
    ends = text.count("\n")
    if ends == 0 or text.count("\r\n") != ends:
        return edit.old, edit.new
    old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (edit.old, edit.new))
    return old, new


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ToolError(
            "the text contains half a character (a lone surrogate), which no file can hold"
        ) from None


def binding_of(states: Mapping[str, FileState]) -> str:
    """Return the combined SHA-256 of several files."""
    lines = "".join(f"{path}\0{states[path].digest}\n" for path in sorted(states))
    return hashlib.sha256(lines.encode()).hexdigest()
