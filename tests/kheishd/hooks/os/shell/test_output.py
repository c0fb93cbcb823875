"""A command's output: streamed, spooled and excerpted, whatever it is."""

import stat
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.os.shell.output import (
    STREAM_END,
    Excerpt,
    OutputCollector,
    Spool,
    read_tail,
    truncate_middle,
)
from protocol.limits.shell import MAX_COMMAND_LIVE_BYTES
from protocol.limits.units import KIB
from protocol.text import json_length


class Script(trio.abc.ReceiveStream):
    """A stream of given pieces, with an error at its end on request."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = list(pieces)
        self._error = error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._pieces:
            return self._pieces.pop(0)
        if self._error is not None:
            raise self._error
        return b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Return a spool of a hundred bytes."""
    spool = Spool(tmp_path / "spool", max_bytes=100)
    spool.begin()
    return spool


async def test_it_is_shown_as_it_comes(spool: Spool) -> None:
    """Output is streamed piece by piece; a split character is shown once it is complete, or invalid."""
    message: list[str] = []
    capture = OutputCollector(spool, message.append)
    await capture.pump(Script(b"one ", b"gr\xc3", b"\xbcn", b"\xe2\x82"), capture.stdout)
    assert message == ["one ", "gr", "ün", "\ufffd"]
    assert spool.read() == b"one gr\xc3\xbcn\xe2\x82"
    assert capture.excerpts(100) == (("one grün\ufffd", True), ("", True))
    spool.remove()


async def test_both_outputs_are_kept_in_one(spool: Spool) -> None:
    """Both outputs are spooled in the order of arrival."""
    capture = OutputCollector(spool, lambda text: None)
    await capture.pump(Script(b"out 1\n"), capture.stdout)
    await capture.pump(Script(b"err\n"), capture.stderr)
    await capture.pump(Script(b"out 2\n"), capture.stdout)
    assert spool.read() == b"out 1\nerr\nout 2\n"
    assert capture.excerpts(100) == (("out 1\nout 2\n", True), ("err\n", True))
    spool.remove()


@pytest.mark.parametrize("error", [trio.BrokenResourceError(), trio.ClosedResourceError()])
async def test_a_stream_that_breaks(spool: Spool, error: Exception) -> None:
    """Output from before a broken stream is not lost."""
    capture = OutputCollector(spool, lambda text: None)
    await capture.pump(Script(b"before", error=error), capture.stdout)
    assert capture.excerpts(100)[0] == ("before", True)
    spool.remove()


async def test_showing_has_an_end(spool: Spool) -> None:
    """Streaming ends at its limit with a note, while collecting continues."""
    message: list[str] = []
    capture = OutputCollector(spool, message.append)
    piece = b"x" * 64 * KIB
    await capture.pump(Script(*[piece] * 20, b"the end"), capture.stdout)
    assert len("".join(message)) == MAX_COMMAND_LIVE_BYTES + len(STREAM_END)
    assert message[-1].endswith(STREAM_END)
    assert capture.excerpts(1_000)[0][0].endswith("the end")
    assert spool.dropped == 20 * 64 * KIB + len("the end") - 100
    spool.remove()


@pytest.mark.parametrize(
    ("output", "errors", "output_share", "errors_share"),
    [(1_000, 1_000, 500, 500), (1_000, 100, 900, 100), (100, 1_000, 100, 900), (600, 400, 600, 400)],
)
async def test_both_share_the_room(
    spool: Spool, output: int, errors: int, output_share: int, errors_share: int
) -> None:
    """If one output needs little, the other has the rest of the room."""
    capture = OutputCollector(spool, lambda text: None)
    await capture.pump(Script(b"o" * output), capture.stdout)
    await capture.pump(Script(b"e" * errors), capture.stderr)
    (shown_output, output_is_whole), (shown_errors, errors_is_whole) = capture.excerpts(1_000)
    assert output_share - 1 <= json_length(shown_output) <= output_share
    assert errors_share - 1 <= json_length(shown_errors) <= errors_share
    assert output_is_whole is (output <= output_share)
    assert errors_is_whole is (errors <= errors_share)
    spool.remove()


# Spools.


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """The spool returns its whole content; the file and its directory are private."""
    spool = Spool(tmp_path / "calls" / "one")
    spool.begin()
    spool.write(b"first, ")
    spool.write(b"second")
    assert spool.read() == b"first, second"
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.path.parent.stat().st_mode) == 0o700
    spool.remove()
    assert not spool.path.exists()


def test_it_has_an_end(tmp_path: Path) -> None:
    """Bytes beyond the limit are counted exactly."""
    spool = Spool(tmp_path / "one", max_bytes=10)
    spool.begin()
    spool.write(b"123456")
    assert spool.writable
    spool.write(b"789012345")
    assert not spool.writable
    spool.write(b"more")
    assert spool.read() == b"1234567890"
    assert spool.dropped == 5 + 4
    assert spool.problem is None
    spool.remove()


def test_what_was_left_is_overwritten(tmp_path: Path) -> None:
    """A spool begins empty."""
    (tmp_path / "one").write_text("of another time")
    spool = Spool(tmp_path / "one")
    spool.begin()
    assert spool.read() == b""
    spool.remove()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the place of the spool is neither written to nor read."""
    (tmp_path / "other").write_text("precious")
    (tmp_path / "one").symlink_to(tmp_path / "other")
    spool = Spool(tmp_path / "one")
    spool.begin()
    spool.write(b"x")
    assert spool.dropped == 1
    assert spool.problem == "Too many levels of symbolic links"
    assert read_tail(tmp_path / "one", 100) is None
    spool.remove()
    assert (tmp_path / "other").read_text() == "precious"


def test_a_disk_that_gives_up() -> None:
    """Bytes that could not be written are counted, and the reason is known."""
    spool = Spool(Path("/dev/full"))
    spool.begin()
    spool.write(b"x" * 100)
    assert (spool.dropped, spool.problem) == (100, "No space left on device")
    assert not spool.writable
    assert spool._file is not None
    spool._file.close()


def test_the_tail_of_what_was_left(tmp_path: Path) -> None:
    """The tail is the end of a file, all of a short one, None without one."""
    (tmp_path / "one").write_bytes(b"0123456789")
    assert read_tail(tmp_path / "one", 4) == b"6789"
    assert read_tail(tmp_path / "one", 40) == b"0123456789"
    assert read_tail(tmp_path / "two", 4) is None


# Excerpts.


def excerpt(*pieces: bytes, half: int = 100) -> Excerpt:
    """Return an excerpt of some pieces."""
    taken = Excerpt(half)
    for piece in pieces:
        taken.feed(piece)
    return taken


def test_short_output_is_whole() -> None:
    """A short stream is returned complete, even in pieces that split a character."""
    assert excerpt(b"gr\xc3", b"\xbcn", half=4).text(100) == ("grün", True)
    assert excerpt().text(10) == ("", True)


def test_the_middle_is_left_out_and_counted() -> None:
    """Both ends are kept, and the marker has the exact number of missing bytes."""
    text, whole = excerpt(b"a" * 150, b"b" * 50, b"c" * 150, half=100).text(1_000)
    assert not whole
    assert text == "a" * 100 + "\n[... 150 bytes left out ...]\n" + "c" * 100


def test_what_is_kept_may_still_be_too_long() -> None:
    """An excerpt is cut to its JSON limit, where a control character takes six bytes."""
    text, whole = excerpt(b"\x01" * 100).text(200)
    assert not whole
    assert json_length(text) <= 200
    remaining = text.count("\x01")
    assert f"\n[... {100 - remaining} bytes left out ...]\n" in text
    assert remaining == 28, "as much as fits, both ends alike"


@pytest.mark.parametrize("character", ["ü", "€", "🙂"])
def test_no_character_is_cut(character: str) -> None:
    """A character at the cut is left out completely."""
    for half in range(8, 16):
        text, _ = excerpt(character.encode() * 20, half=half).text(1_000)
        assert "\ufffd" not in text


def test_what_is_no_text_is_replaced() -> None:
    """Invalid bytes are replaced at either end, and counted exactly in between."""
    text, _ = excerpt(b"\xff" * 10, b"a" * 10, b"\xff" * 10, half=5).text(1_000)
    assert text == "\ufffd" * 4 + "\n[... 21 bytes left out ...]\n" + "\ufffd" * 5


@given(st.lists(st.binary(max_size=50)), st.integers(1, 60), st.integers(40, 400))
def test_laws(pieces: list[bytes], half: int, max_json_bytes: int) -> None:
    """An excerpt always fits, is text, and is complete or says how much is missing."""
    taken = excerpt(*pieces, half=half)
    text, whole = taken.text(max_json_bytes)
    joined = b"".join(pieces)
    assert taken.total == len(joined)
    assert len(msgspec.json.encode(text)) - 2 <= max_json_bytes
    if whole:
        assert text == joined.decode(errors="replace")
    else:
        assert "bytes left out" in text
    if len(joined) <= 2 * half and json_length(joined.decode(errors="replace")) <= max_json_bytes:
        assert whole


def test_clipped() -> None:
    """A text that is too long loses its middle."""
    assert truncate_middle("short", 10) == "short"
    assert truncate_middle("a" * 50 + "b" * 50, 60) == "a" * 14 + "\n[... 72 bytes left out ...]\n" + "b" * 14
