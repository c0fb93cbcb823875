"""What a call would make of the files it names: decided from what was found there; nothing is touched.

Pure: the same orders and the same files give the same changes, so what a person approved, what is noted as
evidence and what is written are one thing.
"""

import binascii
import hashlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kheishd.hooks.files.arguments import ApplyPatch, EditFile, WriteFile
from kheishd.hooks.files.confine import ROOT, relative
from kheishd.hooks.files.looking import Found
from kheishd.kernel.hook import ToolError
from protocol.limits.call import MAX_SUBJECT_BYTES
from protocol.limits.files import MAX_EDIT_BYTES, MAX_PATCH_BYTES, MAX_PATCH_FILES


@dataclass(frozen=True, slots=True)
class Write:
    """A file is to have this content, whatever it had."""

    path: str
    content: bytes
    expected: str | None


@dataclass(frozen=True, slots=True)
class Replace:
    """A text in a file is to be another."""

    path: str
    old: str
    new: str
    everywhere: bool
    expected: str | None


Order = Write | Replace


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one file."""

    found: Found
    after: bytes
    replacements: int = 0

    @property
    def path(self) -> str:
        """Which file."""
        return self.found.path

    @property
    def digest(self) -> str:
        """The SHA-256 of the new content, in hex."""
        return hashlib.sha256(self.after).hexdigest()


def orders_of(asked: WriteFile | EditFile | ApplyPatch, workspace: str) -> list[Order]:
    """The orders that a call consists of, in turn. Errors: ToolError."""
    if isinstance(asked, WriteFile):
        path = _file(asked.path, workspace)
        return [Write(path, _content(asked), asked.expected_sha256)]
    hunks = asked.hunks if isinstance(asked, ApplyPatch) else [asked]
    orders = [_replace(hunk, workspace) for hunk in hunks]
    paths = paths_of(orders)
    if len(paths) > MAX_PATCH_FILES or len("\n".join(paths).encode()) > MAX_SUBJECT_BYTES:
        raise ToolError(
            f"one patch changes at most {MAX_PATCH_FILES} files, whose paths together have at most "
            f"{MAX_SUBJECT_BYTES} bytes; make several patches"
        )
    return [*orders]


def paths_of(orders: Sequence[Order]) -> list[str]:
    """The files that orders are about, each once, sorted."""
    return sorted({order.path for order in orders})


def _file(path: str, workspace: str) -> str:
    found = relative(path, workspace)
    if found == ROOT:
        raise ToolError("that is the workspace itself, a directory; name a file in it")
    return found


def _content(asked: WriteFile) -> bytes:
    if (asked.content is None) == (asked.content_base64 is None):
        raise ToolError("give exactly one of 'content' and 'content_base64'")
    content = _encoded(asked.content) if asked.content is not None else _bytes(asked.content_base64 or "")
    return _editable(asked.path, content)


def _bytes(text: str) -> bytes:
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ToolError(f"content_base64 is not base64: {error}") from None


def _editable(path: str, content: bytes) -> bytes:
    if len(content) > MAX_EDIT_BYTES:
        raise ToolError(f"{path} would have {len(content)} bytes; the limit is {MAX_EDIT_BYTES}")
    return content


def _replace(hunk: EditFile, workspace: str) -> Replace:
    if not hunk.old_text:
        raise ToolError("old_text is empty; give the text to replace, or write the whole file by write_file")
    if hunk.old_text == hunk.new_text:
        raise ToolError(f"{hunk.path}: old_text and new_text are the same, so nothing would change")
    path = _file(hunk.path, workspace)
    return Replace(path, hunk.old_text, hunk.new_text, hunk.replace_all, hunk.expected_sha256)


def plan(orders: Sequence[Order], founds: Mapping[str, Found]) -> list[Change]:
    """What becomes of the files, sorted by path; later orders see what earlier ones made.

    Errors: ToolError for the first order that cannot be carried out; then none is.
    """
    changes: dict[str, Change] = {}
    for order in orders:
        found = founds[order.path]
        if order.expected is not None and order.expected.lower() != found.digest:
            has = "is not there" if found.absent else f"has the SHA-256 {found.digest}"
            raise ToolError(
                f"{order.path} {has}, not the expected {order.expected}; read it again, then change it"
            )
        before = changes.get(order.path)
        match order:
            case Write(content=content):
                changes[order.path] = Change(found, content)
            case Replace():
                content, count = replaced(order, found, before.after if before else found.content)
                count += before.replacements if before else 0
                changes[order.path] = Change(found, content, count)
    size = sum(max(change.found.size, len(change.after)) for change in changes.values())
    if len(changes) > 1 and size > MAX_PATCH_BYTES:
        raise ToolError(f"the files of one patch have at most {MAX_PATCH_BYTES} bytes together; these {size}")
    return [changes[path] for path in sorted(changes)]


def replaced(order: Replace, found: Found, content: bytes | None) -> tuple[bytes, int]:
    """The content with the text replaced, and how often. Line ends stay what they are in the file.

    Errors: ToolError where the text is not there, or more often than was said.
    """
    text = _text(order.path, found, content)
    old, new = _in_line_ends_of(text, order)
    count = text.count(old)
    if count == 0:
        raise ToolError(
            f"{order.path} does not contain old_text; it must match exactly, spaces and indentation too. "
            "Read the file again"
        )
    if not order.everywhere and (count > 1 or text.find(old, text.find(old) + 1) >= 0):
        raise ToolError(
            f"old_text occurs {max(count, 2)} times in {order.path}; give more of the text around it so that "
            "it occurs once, or say replace_all"
        )
    # Before it is made: a short text that occurs often, and a long one in its place, would fill the memory.
    size = len(_encoded(text)) + count * (len(_encoded(new)) - len(_encoded(old)))
    if size > MAX_EDIT_BYTES:
        raise ToolError(f"{order.path} would have {size} bytes; the limit is {MAX_EDIT_BYTES}")
    return _encoded(text.replace(old, new)), count


def _text(path: str, found: Found, content: bytes | None) -> str:
    if content is None:
        if found.absent:
            raise ToolError(f"there is no {path}; write_file makes new files")
        raise ToolError(f"{path} has {found.size} bytes; files over {MAX_EDIT_BYTES} are not edited")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not UTF-8 (byte {error.start}), so it is not edited") from None
    if "\0" in text:
        raise ToolError(f"{path} is binary: it holds zero bytes, so it is not edited")
    return text


def _in_line_ends_of(text: str, order: Replace) -> tuple[str, str]:
    """Old and new text with the file's own line ends, where those are all CR LF."""
    ends = text.count("\n")
    if ends == 0 or text.count("\r\n") != ends:
        return order.old, order.new
    old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (order.old, order.new))
    return old, new


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ToolError(
            "the text holds half a character (a lone surrogate), which no file can hold"
        ) from None


def binding_of(founds: Mapping[str, Found]) -> str:
    """The digest of the digests of some files: it is another as soon as one of them is."""
    lines = "".join(f"{path}\0{founds[path].digest}\n" for path in sorted(founds))
    return hashlib.sha256(lines.encode()).hexdigest()
