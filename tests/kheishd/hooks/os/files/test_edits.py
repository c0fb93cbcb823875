"""Edits and the changes that they make: ambiguous ones are rejected, and a patch is made whole or not."""

import hashlib
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from kheishd.hooks.os.files.attributes import FileAttributes
from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.edits import (
    ABSENT,
    ApplyPatch,
    EditFile,
    FileChange,
    FileState,
    WriteFile,
    binding_of,
    check_cancelled,
    edits_of,
    paths_of,
    plan_changes,
    read_pieces,
    read_state,
)
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_EDIT_BYTES, MAX_HASHED_BYTES, MAX_PATCH_BYTES, MAX_PATCH_FILES


def found(path: str, content: bytes | None) -> FileState:
    """Return the state of a file with this content."""
    if content is None:
        return FileState(path, ABSENT)
    attributes = FileAttributes(0o644, 0, 0, 1, {})
    return FileState(path, hashlib.sha256(content).hexdigest(), len(content), content, attributes)


def edit(old: str, new: str, path: str = "f", **more: Any) -> EditFile:
    """Return a hunk."""
    return EditFile(path=path, old_text=old, new_text=new, **more)


def planned(request: WriteFile | EditFile | ApplyPatch, **files: bytes | None) -> list[FileChange]:
    """Return the changes of some files."""
    orders = edits_of(request, "/ws")
    return plan_changes(orders, {path: found(path, files.get(path)) for path in paths_of(orders)})


def after(request: WriteFile | EditFile | ApplyPatch, **files: bytes | None) -> list[bytes]:
    """Return the files' new contents."""
    return [change.content for change in planned(request, **files)]


def refused(words: str, request: WriteFile | EditFile | ApplyPatch, **files: bytes | None) -> None:
    """Assert that the edit is rejected with this message."""
    with pytest.raises(ToolError, match=words):
        planned(request, **files)


def test_writing() -> None:
    """A file is written from text or bytes, whether it exists or not."""
    assert after(WriteFile(path="f", content="ü\n")) == ["ü\n".encode()]
    encoded = b64encode(bytes(range(256))).decode()
    assert after(WriteFile(path="f", content_base64=f"{encoded[:50]}\n{encoded[50:]}"), f=b"x") == [
        bytes(range(256))
    ]
    assert after(WriteFile(path="f", content=""), f=b"x") == [b""]


def test_writing_what_is_not_clear() -> None:
    """A write needs exactly one content, which is valid and fits."""
    refused("exactly one of", WriteFile(path="f"))
    refused("exactly one of", WriteFile(path="f", content="a", content_base64="YQ=="))
    refused("not base64", WriteFile(path="f", content_base64="a$=="))
    refused("the limit is", WriteFile(path="f", content="x" * (MAX_EDIT_BYTES + 1)))
    refused("half a character", WriteFile(path="f", content="\ud800"))
    refused("the workspace itself", WriteFile(path="a/..", content=""))
    refused("out of the workspace", WriteFile(path="../f", content=""))


def test_editing() -> None:
    """An edit replaces one occurrence, or all of them with replace_all."""
    (change,) = planned(edit("b", "B"), f=b"abc")
    assert (change.content, change.replacements) == (b"aBc", 1)
    assert change.digest == hashlib.sha256(b"aBc").hexdigest()
    (change,) = planned(edit("b", "", replace_all=True), f=b"abcb")
    assert (change.content, change.replacements) == (b"ac", 2)


def test_an_edit_that_is_not_clear_is_refused() -> None:
    """The error names the number of occurrences, or that there is none; overlapping ones count."""
    refused("occurs 3 times in f", edit("b", "B"), f=b"abcbb")
    refused("occurs 2 times in f", edit("aa", "B"), f=b"aaa")
    refused("does not contain old_text", edit("x", "B"), f=b"abc")
    refused("does not contain old_text", edit("x", "B", replace_all=True), f=b"abc")
    refused("nothing would change", edit("b", "b"), f=b"abc")
    refused("there is no f; write_file makes", edit("b", "c"))


def test_what_is_no_text_is_not_edited() -> None:
    """Binary files, other encodings and large files are not edited."""
    refused("is binary", edit("a", "b"), f=b"a\0")
    refused(r"not UTF-8 \(byte 1\)", edit("a", "b"), f=b"a\xff")
    refused("half a character", edit("a", "\udfff"), f=b"a")
    orders = edits_of(edit("a", "b"), "/ws")
    with pytest.raises(ToolError, match="files over 4194304 are not edited"):
        plan_changes(orders, {"f": FileState("f", "0" * 64, MAX_EDIT_BYTES + 1)})


def test_an_edit_does_not_make_a_file_too_large() -> None:
    """The resulting size is checked before the text is made: this one would have 16 TB."""
    refused("the limit is", edit("a", "b" * MAX_EDIT_BYTES, replace_all=True), f=b"a" * MAX_EDIT_BYTES)


def test_line_ends_stay_what_they_are() -> None:
    """Text with LF matches a file with CR LF; if line ends are mixed, the text must be exact."""
    assert after(edit("a\nb", "x\ny\nz"), f=b"a\r\nb\r\n") == [b"x\r\ny\r\nz\r\n"]
    assert after(edit("a\r\nb", "x"), f=b"a\r\nb\r\n") == [b"x\r\n"]
    assert after(edit("b", "x\ny"), f=b"a\nb\r\n") == [b"a\nx\ny\r\n"]
    refused("does not contain", edit("a\nb", "x"), f=b"a\r\nb\nc\n")
    assert after(edit("a", "b"), f=b"\xef\xbb\xbfa") == [b"\xef\xbb\xbfb"]


def test_an_expectation_is_held_against_what_was_found() -> None:
    """An expected digest matches in either case; for a missing file it never matches."""
    right = hashlib.sha256(b"abc").hexdigest()
    assert after(edit("b", "B", expected_sha256=right.upper()), f=b"abc") == [b"aBc"]
    refused("has the SHA-256", edit("b", "B", expected_sha256="0" * 64), f=b"abc")
    refused("has the SHA-256", WriteFile(path="f", content="", expected_sha256="0" * 64), f=b"abc")
    refused("f is missing", WriteFile(path="f", content="", expected_sha256=right))


def test_later_hunks_see_what_earlier_ones_made() -> None:
    """A hunk applies to the result of earlier ones; its expected digest is that of the original file."""
    digest = hashlib.sha256(b"abc").hexdigest()
    hunks = [
        edit("b", "xx", expected_sha256=digest),
        edit("o", "0", path="g"),
        edit("xx", "y", path="./f", expected_sha256=digest),
    ]
    first, second = planned(ApplyPatch(hunks=hunks), f=b"abc", g=b"o")
    assert (first.path, first.content, first.replacements) == ("f", b"ayc", 2)
    assert (second.path, second.content, second.replacements) == ("g", b"0", 1)


def test_a_patch_is_refused_whole() -> None:
    """One impossible hunk makes the whole patch fail."""
    refused("does not contain", ApplyPatch(hunks=[edit("b", "x"), edit("b", "y")]), f=b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    contrary = [edit("b", "x", expected_sha256=digest), edit("c", "y", expected_sha256="0" * 64)]
    refused("has the SHA-256", ApplyPatch(hunks=contrary), f=b"abc")
    refused("there is no g", ApplyPatch(hunks=[edit("b", "x"), edit("b", "y", path="g")]), f=b"abc")


def test_a_patch_has_limits() -> None:
    """A patch has limits on its files, their names and their contents."""
    many = [edit("a", "b", path=f"f{number}") for number in range(MAX_PATCH_FILES + 1)]
    refused("at most 24 files", ApplyPatch(hunks=many))
    long = [edit("a", "b", path=f"{number}{'x' * 600}") for number in range(2)]
    refused("at most 1024 bytes", ApplyPatch(hunks=long))
    count = MAX_PATCH_BYTES // MAX_EDIT_BYTES + 1
    large = {f"f{number}": b"a" + b"x" * (MAX_EDIT_BYTES - 1) for number in range(count)}
    hunks = [edit("a", "b", path=path) for path in large]
    refused("of one patch may have", ApplyPatch(hunks=hunks), **large)


def test_a_binding_is_that_of_all_files() -> None:
    """The binding differs as soon as one file differs, is missing or has another name."""
    pair = {"f": found("f", b"a"), "g": found("g", None)}
    assert binding_of(pair) == binding_of(dict(reversed(pair.items())))
    others = [
        {"f": found("f", b"b"), "g": found("g", None)},
        {"f": found("f", b"a"), "g": found("g", b"")},
        {"f": found("f", b"a"), "h": found("h", None)},
        {"f": found("f", b"a")},
    ]
    assert len({binding_of(item) for item in [pair, *others]}) == 5


# The state of a file.


def state_at(workspace: Path, path: str) -> FileState:
    """Return the state of a file."""
    with open_root(str(workspace)) as root:
        return read_state(root, path)


def test_a_file(tmp_path: Path) -> None:
    """The state has everything to change a file and to detect a change of it."""
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o640)
    first = state_at(tmp_path, "f")
    assert (first.digest, first.size) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert first.attributes is not None
    assert (first.content, first.attributes.mode, first.absent) == (b"abc", 0o640, False)
    os.link(tmp_path / "f", tmp_path / "other")
    assert state_at(tmp_path, "f").stamp == first.stamp
    (tmp_path / "f").write_bytes(b"abcd")
    assert state_at(tmp_path, "f").stamp != first.stamp


def test_no_file(tmp_path: Path) -> None:
    """A missing file or directory is a state; a file in the place of a directory is an error."""
    assert state_at(tmp_path, "gone").absent
    assert state_at(tmp_path, "gone/gone").absent
    (tmp_path / "f").write_text("")
    with pytest.raises(ToolError, match="not a directory"):
        state_at(tmp_path, "f/gone")


def test_a_large_file_is_hashed_and_not_kept(tmp_path: Path) -> None:
    """A file too large to edit takes no memory; one too large to hash is rejected."""
    content = b"x" * (MAX_EDIT_BYTES + 1)
    (tmp_path / "f").write_bytes(content)
    large = state_at(tmp_path, "f")
    assert (large.content, large.digest) == (None, hashlib.sha256(content).hexdigest())
    os.truncate(tmp_path / "f", MAX_HASHED_BYTES + 1)
    with pytest.raises(ToolError, match="file tools change nothing over"):
        state_at(tmp_path, "f")


def test_pieces_end_where_they_are_told_to(tmp_path: Path) -> None:
    """Reading ends at the limit even in a growing file, and checks for cancellation at each piece."""
    (tmp_path / "f").write_bytes(b"x" * 600_000)
    request: list[None] = []
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert sum(map(len, read_pieces(descriptor, lambda: request.append(None), 500_000))) == 500_000
        assert len(request) == 2
    finally:
        os.close(descriptor)


def test_outside_of_a_thread_of_trio_everything_is_wanted() -> None:
    """Outside trio's threads nothing can be cancelled."""
    check_cancelled()


@pytest.mark.parametrize(
    ("previous", "text", "expected"),
    [
        (b"a\r\nb\r\n", "x\ny\n", b"x\r\ny\r\n"),
        (b"a\r\nb\n", "x\ny\n", b"x\ny\n"),
        (b"a\r\n", "x\r\ny\n", b"x\r\ny\n"),
        (b"\xef\xbb\xbfa\n", "x\n", b"\xef\xbb\xbfx\n"),
        (b"\xef\xbb\xbfa\n", "\ufeffx\n", b"\xef\xbb\xbfx\n"),
        (b"\xef\xbb\xbfa\r\n", "x\n", b"\xef\xbb\xbfx\r\n"),
        (None, "x\n", b"x\n"),
    ],
)
def test_a_replaced_text_keeps_mark_and_line_ends(previous: bytes | None, text: str, expected: bytes) -> None:
    """write_file keeps a file's byte order mark and CR LF; a text that has its own keeps those."""
    edits = edits_of(WriteFile(path="f", content=text), "/ws")
    (change,) = plan_changes(edits, {"f": found("f", previous)})
    assert change.content == expected


def test_bytes_are_written_as_they_are() -> None:
    """Content in base64 replaces everything."""
    edits = edits_of(WriteFile(path="f", content_base64="eAo="), "/ws")
    (change,) = plan_changes(edits, {"f": found("f", b"\xef\xbb\xbfa\r\n")})
    assert change.content == b"x\n"
