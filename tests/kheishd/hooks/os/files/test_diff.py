"""Diffs: patch(1) understands them, they are computed quickly, and never too long."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.os.files.diff import diff_of
from kheishd.hooks.os.files.edits import ABSENT, FileChange, FileState
from protocol.limits.files import MAX_DIFF_BYTES, MAX_DIFF_LINES


def change(original: bytes | None, current: bytes, path: str = "f") -> FileChange:
    """Return a change of a file."""
    if original is None:
        return FileChange(FileState(path, ABSENT), current)
    return FileChange(FileState(path, "0" * 64, len(original), original), current)


def numbered(count: int) -> list[str]:
    """Return distinct lines."""
    return [f"line {number}\n" for number in range(count)]


def applied(directory: Path, diff: str, original: bytes) -> bytes:
    """Return the result of patch(1) on a file and a diff."""
    (directory / "f").write_bytes(original)
    command = ["patch", "-s", "--binary", "-p1", "-o", "new", "f"]
    subprocess.run(command, cwd=directory, input=diff.encode(), check=True)
    return (directory / "new").read_bytes()


def test_a_small_change() -> None:
    """A small change has the usual unified form."""
    diff = diff_of([change(b"a\nb\nc\n", b"a\nB\nc\n")])
    assert diff == "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"


def test_a_new_file_and_an_emptied_one() -> None:
    """An empty side is named by the line before it."""
    assert diff_of([change(None, b"a\n")]) == "--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+a\n"
    assert diff_of([change(b"a\n", b"")]) == "--- a/f\n+++ b/f\n@@ -1 +0,0 @@\n-a\n"
    assert diff_of([change(None, b"")]) == "--- /dev/null\n+++ b/f\n"


def test_a_last_line_without_its_end() -> None:
    """A missing last line end is marked as diff(1) does."""
    diff = diff_of([change(b"a", b"a\n")])
    assert diff.splitlines()[3:] == ["-a", "\\ No newline at end of file", "+a"]


def test_several_files() -> None:
    """Files follow one another; a binary file is shown by its size and digest."""
    diff = diff_of([change(b"a\n", b"b\n"), change(b"\0", b"b\n", "g"), change(b"\xff", b"", "h")])
    assert [line for line in diff.splitlines() if line.startswith("+++")] == ["+++ b/f", "+++ b/g", "+++ b/h"]
    assert "binary or large: 1 bytes become 2, SHA-256" in diff


def test_a_large_file_that_is_replaced() -> None:
    """A file whose content was not read is shown by its size."""
    large = FileChange(FileState("f", "0" * 64, 5_000_000), b"a\n")
    assert "5000000 bytes become 2" in diff_of([large])


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch(1) is not installed here")
@pytest.mark.parametrize("apart", [2, MAX_DIFF_LINES * 2])
def test_patch_understands_changes_in_a_long_file(tmp_path: Path, apart: int) -> None:
    """Near changes are shown in detail, distant ones as one hunk, with correct numbers."""
    original = numbered(MAX_DIFF_LINES * 4)
    current = list(original)
    current[500] = "changed\n"
    current[500 + apart] = "changed, too\n"
    del current[600]
    diff = diff_of([change("".join(original).encode(), "".join(current).encode())])
    assert applied(tmp_path, diff, "".join(original).encode()) == "".join(current).encode()
    assert ("-line 501" in diff) == (apart > MAX_DIFF_LINES)


@given(*[st.lists(st.sampled_from(["a\n", "b\n", "c\r\n", "d"]), max_size=14)] * 2)
def test_every_line_is_accounted_for(original: list[str], current: list[str]) -> None:
    """A diff turns one text into the other, whatever the two are."""
    old, new = "".join(original), "".join(current)
    diff = diff_of([change(old.encode(), new.encode())])
    assert patched(old, diff) == new
    assert ("@@" in diff) == (old != new)


def patched(text: str, diff: str) -> str:
    """Apply the diff of one file to a text, in the simplest way."""
    old = re.findall(r"[^\n]*\n|[^\n]+", text)
    new: list[str] = []
    index = 0
    for hunk in re.split(r"^@@ -", diff, flags=re.MULTILINE)[1:]:
        head, _, body = hunk.partition("\n")
        answer = re.match(r"(\d+)(?:,(\d+))? ", head)
        assert answer is not None
        begins = int(answer[1]) - (answer[2] != "0")
        new += old[index:begins]
        index = begins
        for line in re.findall(r"([ +-][^\n]*\n)(\\[^\n]*\n)?", body):
            message = line[0][1:-1] if line[1] else line[0][1:]
            if line[0][0] != "+":
                assert old[index] == message
                index += 1
            if line[0][0] != "-":
                new.append(message)
    return "".join(new + old[index:])


def test_a_long_diff_says_that_there_is_more() -> None:
    """A long diff is cut at its limit, and its last line says so."""
    diff = diff_of([change(None, b"x" * 99 + b"\n" + b"y\n" * MAX_DIFF_BYTES)])
    assert len(diff) < MAX_DIFF_BYTES + 100
    assert diff.endswith(f"... and more: the diff has over {MAX_DIFF_BYTES} bytes\n")


def test_what_differs_a_lot_is_not_compared_line_by_line() -> None:
    """Texts of 200,000 lines in two orders are not compared by lines, which would take minutes."""
    lines = numbered(100_000)
    diff = diff_of([change("".join(lines).encode(), "".join(reversed(lines)).encode())])
    assert diff.splitlines()[2] == "@@ -1,100000 +1,100000 @@"
