"""Orders and what they make of files: refused where they are not clear, and all of them or none."""

import hashlib
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

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
    """A file as it would be found."""
    if content is None:
        return FileState(path, ABSENT)
    return FileState(path, hashlib.sha256(content).hexdigest(), len(content), content, 0o644)


def edit(old: str, new: str, path: str = "f", **more: Any) -> EditFile:
    """A hunk."""
    return EditFile(path=path, old_text=old, new_text=new, **more)


def planned(asked: WriteFile | EditFile | ApplyPatch, **files: bytes | None) -> list[FileChange]:
    """What becomes of some files."""
    orders = edits_of(asked, "/ws")
    return plan_changes(orders, {path: found(path, files.get(path)) for path in paths_of(orders)})


def after(asked: WriteFile | EditFile | ApplyPatch, **files: bytes | None) -> list[bytes]:
    """Their new contents."""
    return [change.content for change in planned(asked, **files)]


def refused(said: str, asked: WriteFile | EditFile | ApplyPatch, **files: bytes | None) -> None:
    """See that it is refused in these words."""
    with pytest.raises(ToolError, match=said):
        planned(asked, **files)


def test_writing() -> None:
    """Text or bytes, whether or not the file is there."""
    assert after(WriteFile(path="f", content="ü\n")) == ["ü\n".encode()]
    encoded = b64encode(bytes(range(256))).decode()
    assert after(WriteFile(path="f", content_base64=f"{encoded[:50]}\n{encoded[50:]}"), f=b"x") == [
        bytes(range(256))
    ]
    assert after(WriteFile(path="f", content=""), f=b"x") == [b""]


def test_writing_what_is_not_clear() -> None:
    """Exactly one content, which is one, and fits."""
    refused("exactly one of", WriteFile(path="f"))
    refused("exactly one of", WriteFile(path="f", content="a", content_base64="YQ=="))
    refused("not base64", WriteFile(path="f", content_base64="a$=="))
    refused("the limit is", WriteFile(path="f", content="x" * (MAX_EDIT_BYTES + 1)))
    refused("half a character", WriteFile(path="f", content="\ud800"))
    refused("the workspace itself", WriteFile(path="a/..", content=""))
    refused("out of the workspace", WriteFile(path="../f", content=""))


def test_editing() -> None:
    """One occurrence; all of them if that is said."""
    (change,) = planned(edit("b", "B"), f=b"abc")
    assert (change.content, change.replacements) == (b"aBc", 1)
    assert change.digest == hashlib.sha256(b"aBc").hexdigest()
    (change,) = planned(edit("b", "", replace_all=True), f=b"abcb")
    assert (change.content, change.replacements) == (b"ac", 2)


def test_an_edit_that_is_not_clear_is_refused() -> None:
    """It says how often the text occurs, or that it does not; overlapping ones are not clear, either."""
    refused("occurs 3 times in f", edit("b", "B"), f=b"abcbb")
    refused("occurs 2 times in f", edit("aa", "B"), f=b"aaa")
    refused("does not contain old_text", edit("x", "B"), f=b"abc")
    refused("does not contain old_text", edit("x", "B", replace_all=True), f=b"abc")
    refused("nothing would change", edit("b", "b"), f=b"abc")
    refused("there is no f; write_file makes", edit("b", "c"))


def test_what_is_no_text_is_not_edited() -> None:
    """Binary files, other encodings, large files."""
    refused("is binary", edit("a", "b"), f=b"a\0")
    refused(r"not UTF-8 \(byte 1\)", edit("a", "b"), f=b"a\xff")
    refused("half a character", edit("a", "\udfff"), f=b"a")
    orders = edits_of(edit("a", "b"), "/ws")
    with pytest.raises(ToolError, match="files over 4194304 are not edited"):
        plan_changes(orders, {"f": FileState("f", "0" * 64, MAX_EDIT_BYTES + 1)})


def test_an_edit_does_not_make_a_file_too_large() -> None:
    """That is found out before it is made: this one would have 16 TB."""
    refused("the limit is", edit("a", "b" * MAX_EDIT_BYTES, replace_all=True), f=b"a" * MAX_EDIT_BYTES)


def test_line_ends_stay_what_they_are() -> None:
    """A model that writes LF edits a file with CR LF; where they are mixed the text must be exact."""
    assert after(edit("a\nb", "x\ny\nz"), f=b"a\r\nb\r\n") == [b"x\r\ny\r\nz\r\n"]
    assert after(edit("a\r\nb", "x"), f=b"a\r\nb\r\n") == [b"x\r\n"]
    assert after(edit("b", "x\ny"), f=b"a\nb\r\n") == [b"a\nx\ny\r\n"]
    refused("does not contain", edit("a\nb", "x"), f=b"a\r\nb\nc\n")
    assert after(edit("a", "b"), f=b"\xef\xbb\xbfa") == [b"\xef\xbb\xbfb"]


def test_an_expectation_is_held_against_what_was_found() -> None:
    """In either case of letters; for a file that is not there it never holds."""
    right = hashlib.sha256(b"abc").hexdigest()
    assert after(edit("b", "B", expected_sha256=right.upper()), f=b"abc") == [b"aBc"]
    refused("has the SHA-256", edit("b", "B", expected_sha256="0" * 64), f=b"abc")
    refused("has the SHA-256", WriteFile(path="f", content="", expected_sha256="0" * 64), f=b"abc")
    refused("f is missing", WriteFile(path="f", content="", expected_sha256=right))


def test_later_hunks_see_what_earlier_ones_made() -> None:
    """In one file, and each file on its own; what was expected is what was there before all of them."""
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
    """By its last hunk; by two that expect different files; by one about a file that is not there."""
    refused("does not contain", ApplyPatch(hunks=[edit("b", "x"), edit("b", "y")]), f=b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    contrary = [edit("b", "x", expected_sha256=digest), edit("c", "y", expected_sha256="0" * 64)]
    refused("has the SHA-256", ApplyPatch(hunks=contrary), f=b"abc")
    refused("there is no g", ApplyPatch(hunks=[edit("b", "x"), edit("b", "y", path="g")]), f=b"abc")


def test_a_patch_has_limits() -> None:
    """Of files, of what all their names take, of what all their contents take."""
    many = [edit("a", "b", path=f"f{number}") for number in range(MAX_PATCH_FILES + 1)]
    refused("at most 24 files", ApplyPatch(hunks=many))
    long = [edit("a", "b", path=f"{number}{'x' * 600}") for number in range(2)]
    refused("at most 1024 bytes", ApplyPatch(hunks=long))
    count = MAX_PATCH_BYTES // MAX_EDIT_BYTES + 1
    large = {f"f{number}": b"a" + b"x" * (MAX_EDIT_BYTES - 1) for number in range(count)}
    hunks = [edit("a", "b", path=path) for path in large]
    refused("of one patch may have", ApplyPatch(hunks=hunks), **large)


def test_a_binding_is_that_of_all_files() -> None:
    """It is another as soon as one of them is, or is not there, or is called otherwise."""
    pair = {"f": found("f", b"a"), "g": found("g", None)}
    assert binding_of(pair) == binding_of(dict(reversed(pair.items())))
    others = [
        {"f": found("f", b"b"), "g": found("g", None)},
        {"f": found("f", b"a"), "g": found("g", b"")},
        {"f": found("f", b"a"), "h": found("h", None)},
        {"f": found("f", b"a")},
    ]
    assert len({binding_of(each) for each in [pair, *others]}) == 5


# What a file is found to be.


def state_at(workspace: Path, path: str) -> FileState:
    """What is there."""
    with open_root(str(workspace)) as root:
        return read_state(root, path)


def test_a_file(tmp_path: Path) -> None:
    """All that is needed to change it, and to see whether it was changed."""
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o640)
    first = state_at(tmp_path, "f")
    assert (first.digest, first.size) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert (first.content, first.mode, first.absent) == (b"abc", 0o640, False)
    os.link(tmp_path / "f", tmp_path / "other")
    assert state_at(tmp_path, "f").stamp == first.stamp
    (tmp_path / "f").write_bytes(b"abcd")
    assert state_at(tmp_path, "f").stamp != first.stamp


def test_no_file(tmp_path: Path) -> None:
    """Neither it nor its directory need be there; a file for a directory is another matter."""
    assert state_at(tmp_path, "gone").absent
    assert state_at(tmp_path, "gone/gone").absent
    (tmp_path / "f").write_text("")
    with pytest.raises(ToolError, match="not a directory"):
        state_at(tmp_path, "f/gone")


def test_a_large_file_is_hashed_and_not_kept(tmp_path: Path) -> None:
    """What nobody edits takes no memory; what takes too long to hash is refused."""
    content = b"x" * (MAX_EDIT_BYTES + 1)
    (tmp_path / "f").write_bytes(content)
    large = state_at(tmp_path, "f")
    assert (large.content, large.digest) == (None, hashlib.sha256(content).hexdigest())
    os.truncate(tmp_path / "f", MAX_HASHED_BYTES + 1)
    with pytest.raises(ToolError, match="file tools change nothing over"):
        state_at(tmp_path, "f")


def test_pieces_end_where_they_are_told_to(tmp_path: Path) -> None:
    """Also in a file that grows; and whoever does not want them any more is asked at each."""
    (tmp_path / "f").write_bytes(b"x" * 600_000)
    asked: list[None] = []
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert sum(map(len, read_pieces(descriptor, lambda: asked.append(None), 500_000))) == 500_000
        assert len(asked) == 2
    finally:
        os.close(descriptor)


def test_outside_of_a_thread_of_trio_everything_is_wanted() -> None:
    """Nobody could have cancelled it."""
    check_cancelled()
