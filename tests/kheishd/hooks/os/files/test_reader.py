"""Reading a file: its lines, its digest, and the handling of long and binary files."""

import hashlib
import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.reader import ReadFile, read_file
from kheishd.kernel.hook import Outcome, ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import MAX_HASHED_BYTES, MAX_READ_BYTES


def outcome(path: Path, **arguments: Any) -> Outcome:
    """Return the outcome of reading a file."""
    with open_root(str(path.parent)) as root:
        return read_file(root, ReadFile(path=path.name, **arguments))


def read(path: Path, **arguments: Any) -> Any:
    """Return the decoded result for the model."""
    return msgspec.json.decode(outcome(path, **arguments).text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file in a workspace of its own."""
    return tmp_path / "f"


def test_a_file(file: Path) -> None:
    """The result has the content, the sizes and the digest."""
    file.write_bytes(b"one\ntwo\n")
    digest = hashlib.sha256(b"one\ntwo\n").hexdigest()
    assert read(file) == {
        "path": "f",
        "start_line": 1,
        "line_count": 2,
        "content": "one\ntwo\n",
        "bytes_read": 8,
        "size": 8,
        "lines": 2,
        "sha256": digest,
        "encoding": "utf-8",
        "binary": False,
        "truncated": False,
    }
    assert outcome(file).full_output is None


@pytest.mark.parametrize(
    ("arguments", "content", "count"),
    [
        ({"start_line": 2}, "two\r\nthree", 2),
        ({"start_line": 2, "line_count": 1}, "two\r\n", 1),
        ({"line_count": 2}, "one\ntwo\r\n", 2),
        ({"start_line": 3, "line_count": 9}, "three", 1),
    ],
)
def test_some_lines(file: Path, arguments: dict[str, int], content: str, count: int) -> None:
    """A range of lines can be read; the digest is the whole file's, and the result is not truncated."""
    file.write_bytes(b"one\ntwo\r\nthree")
    answer = read(file, **arguments)
    assert (answer["content"], answer["line_count"], answer["lines"]) == (content, count, 3)
    assert answer["sha256"] == hashlib.sha256(b"one\ntwo\r\nthree").hexdigest()
    assert not answer["truncated"]


def test_lines_that_are_not_there(file: Path) -> None:
    """An empty file can be read; a line beyond the end is an error."""
    file.write_bytes(b"")
    assert (read(file)["content"], read(file)["lines"], read(file)["line_count"]) == ("", 0, 0)
    with pytest.raises(ToolError, match="f has 0 lines; line 2 cannot be read"):
        read(file, start_line=2)
    file.write_bytes(b"one\n")
    with pytest.raises(ToolError, match="f has 1 lines; line 2"):
        read(file, start_line=2)


def test_a_long_file_is_read_on_and_on(file: Path) -> None:
    """The parts of a long file fit a result each, and together are the file."""
    content = "".join(f'line {number} \u00fc\\"\t{"x" * (number % 300)}\n' for number in range(3_000))
    file.write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    parts, line = [], 1
    while True:
        answer = outcome(file, start_line=line)
        assert len(answer.text.encode()) <= MAX_TOOL_TEXT_BYTES
        part = msgspec.json.decode(answer.text)
        assert (part["sha256"], part["start_line"]) == (digest, line)
        parts.append(part["content"])
        if not part["truncated"]:
            break
        assert answer.full_output is not None
        assert len(msgspec.json.decode(answer.full_output)["content"].encode()) <= MAX_READ_BYTES
        line = part["next_line"]
    assert "".join(parts) == content
    assert len(parts) > 10


@pytest.mark.parametrize("letter", ["x", "\u00fc", "\U0001f600", "\x01"])
def test_a_line_that_is_too_long_is_cut(file: Path, letter: str) -> None:
    """A long line is cut between characters, and the next lines can be read."""
    file.write_text(letter * 200_000 + "\nlast\n")
    answer = outcome(file)
    assert len(answer.text.encode()) <= MAX_TOOL_TEXT_BYTES
    part = msgspec.json.decode(answer.text)
    assert set(part["content"]) == {letter}
    assert len(answer.text.encode()) > MAX_TOOL_TEXT_BYTES // 2
    assert (part["truncated"], part["next_line"], part["encoding"]) == (True, 2, "utf-8")
    assert read(file, start_line=2)["content"] == "last\n"


@pytest.mark.parametrize(
    "content", [b"a\0b", b"a\xffb", "latin: \u00fc".encode("latin-1"), "x".encode("utf-16")]
)
def test_what_is_no_text(file: Path, content: bytes) -> None:
    """A binary file is not shown as text; its bytes are available on request."""
    file.write_bytes(content)
    answer = read(file)
    assert (answer["content"], answer["binary"], answer["encoding"]) == ("", True, "binary")
    assert b64decode(read(file, include_base64=True)["content_base64"]) == content


def test_bytes_of_a_large_file_are_bounded(file: Path) -> None:
    """The bytes of a large file are limited, with text or without."""
    for content in (b"x" * 79 + b"\n", b"\xff" * 79 + b"\n"):
        file.write_bytes(content * 1_000)
        answer = outcome(file, include_base64=True)
        assert len(answer.text.encode()) <= MAX_TOOL_TEXT_BYTES
        part = msgspec.json.decode(answer.text)
        assert part["truncated"]
        assert b64decode(part["content_base64"]) == (content * 1_000)[: part["bytes_read"]]


def test_a_huge_file_is_looked_at_in_part(file: Path) -> None:
    """A huge file is read in part and says so, without a digest; a complete range is not truncated."""
    file.write_bytes(b"one\ntwo\n")
    os.truncate(file, MAX_HASHED_BYTES + 5)
    first = read(file, line_count=2)
    assert (first["content"], first["sha256"], first["truncated"]) == ("one\ntwo\n", None, False)
    assert first["note"].startswith(f"only the first {MAX_HASHED_BYTES} of {MAX_HASHED_BYTES + 5} bytes")
    assert read(file)["truncated"]
    with pytest.raises(ToolError, match=r"has, in the first 67108864 bytes, 3 lines; line 4"):
        read(file, start_line=4)


def test_a_secret_at_the_cut(file: Path) -> None:
    """A line that is cut shows no part of a secret."""
    secret = "sk-" + "0123456789" * 2_000
    file.write_text("x" * (MAX_TOOL_TEXT_BYTES - 10_000) + secret + "y" * MAX_TOOL_TEXT_BYTES)
    with open_root(str(file.parent)) as root:
        answer = read_file(root, ReadFile(path=file.name), scrub=Scrubber([secret]).scrub_bytes)
    assert "0123456789" not in msgspec.json.decode(answer.text)["content"]


def test_a_secret_at_the_end_of_what_is_read(file: Path) -> None:
    """Of a file that is too long to be read whole, the stored output has no part of a secret either."""
    secret = "sk-" + "0123456789" * 50
    file.write_text("x" * (MAX_READ_BYTES - 100) + secret + "y" * 100)
    scrubber = Scrubber([secret])
    with open_root(str(file.parent)) as root:
        arguments = ReadFile(path=file.name)
        answer = read_file(root, arguments, scrub=scrubber.scrub_bytes, scrub_cut=scrubber.scrub_cut)
    stored = msgspec.json.decode(answer.full_output or b"")
    assert stored["content"] == "x" * (MAX_READ_BYTES - 100)
    assert stored["truncated"]
