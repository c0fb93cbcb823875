"""What a command writes: shown as it comes, kept, and excerpted, whatever comes."""

from pathlib import Path

import pytest
import trio

from kheishd.hooks.os.shell.output import ENOUGH, Capture
from kheishd.hooks.excerpt import json_bytes
from kheishd.hooks.spool import Spool
from protocol.limits.shell import MAX_COMMAND_LIVE_BYTES
from protocol.limits.units import KIB


class Script(trio.abc.ReceiveStream):
    """A stream of given pieces, and an error at its end if there is to be one."""

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
    """A spool that takes a hundred bytes."""
    spool = Spool(tmp_path / "spool", max_bytes=100)
    spool.begin()
    return spool


async def test_it_is_shown_as_it_comes(spool: Spool) -> None:
    """Piece by piece; a character that comes in two is shown once it is whole, or that it never was."""
    said: list[str] = []
    capture = Capture(spool, said.append)
    await capture.pump(Script(b"one ", b"gr\xc3", b"\xbcn", b"\xe2\x82"), capture.stdout)
    assert said == ["one ", "gr", "ün", "\ufffd"]
    assert spool.read() == b"one gr\xc3\xbcn\xe2\x82"
    assert capture.shown(100) == (("one grün\ufffd", True), ("", True))
    spool.remove()


async def test_both_outputs_are_kept_in_one(spool: Spool) -> None:
    """In the order in which they came."""
    capture = Capture(spool, lambda text: None)
    await capture.pump(Script(b"out 1\n"), capture.stdout)
    await capture.pump(Script(b"err\n"), capture.stderr)
    await capture.pump(Script(b"out 2\n"), capture.stdout)
    assert spool.read() == b"out 1\nerr\nout 2\n"
    assert capture.shown(100) == (("out 1\nout 2\n", True), ("err\n", True))
    spool.remove()


@pytest.mark.parametrize("error", [trio.BrokenResourceError(), trio.ClosedResourceError()])
async def test_a_stream_that_breaks(spool: Spool, error: Exception) -> None:
    """What came before is not lost."""
    capture = Capture(spool, lambda text: None)
    await capture.pump(Script(b"before", error=error), capture.stdout)
    assert capture.shown(100)[0] == ("before", True)
    spool.remove()


async def test_showing_has_an_end(spool: Spool) -> None:
    """Who watches is shown so much, and told that there is more; what is kept goes on."""
    said: list[str] = []
    capture = Capture(spool, said.append)
    piece = b"x" * 64 * KIB
    await capture.pump(Script(*[piece] * 20, b"the end"), capture.stdout)
    assert len("".join(said)) == MAX_COMMAND_LIVE_BYTES + len(ENOUGH)
    assert said[-1].endswith(ENOUGH)
    assert capture.shown(1_000)[0][0].endswith("the end")
    assert spool.dropped == 20 * 64 * KIB + len("the end") - 100
    spool.remove()


@pytest.mark.parametrize(
    ("output", "errors", "output_share", "errors_share"),
    [(1_000, 1_000, 500, 500), (1_000, 100, 900, 100), (100, 1_000, 100, 900), (600, 400, 600, 400)],
)
async def test_both_share_the_room(
    spool: Spool, output: int, errors: int, output_share: int, errors_share: int
) -> None:
    """Where one needs little, the other has the rest."""
    capture = Capture(spool, lambda text: None)
    await capture.pump(Script(b"o" * output), capture.stdout)
    await capture.pump(Script(b"e" * errors), capture.stderr)
    (shown_output, output_is_whole), (shown_errors, errors_is_whole) = capture.shown(1_000)
    assert output_share - 1 <= json_bytes(shown_output) <= output_share
    assert errors_share - 1 <= json_bytes(shown_errors) <= errors_share
    assert output_is_whole is (output <= output_share)
    assert errors_is_whole is (errors <= errors_share)
    spool.remove()
