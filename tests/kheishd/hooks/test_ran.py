"""What is told of a command that ran."""

from pathlib import Path

import msgspec
import pytest

from kheishd.hooks.os.shell.output import Capture
from kheishd.hooks.os.shell.process import Ended
from kheishd.hooks.ran import Ran, outcome
from kheishd.hooks.spool import Spool
from kheishd.kernel.hook import ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.shell import MAX_COMMAND_BYTES


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool."""
    return Spool(tmp_path / "spool")


@pytest.fixture
def capture(spool: Spool) -> Capture:
    """What a command wrote: nothing yet."""
    return Capture(spool, lambda text: None)


def ran(ended: Ended | None, command: str = "make", workdir: str = "/w") -> Ran:
    """A command that ran."""
    return Ran(command, workdir, False, 5.0, ended)


def test_an_exit_code_is_an_answer(capture: Capture, spool: Spool) -> None:
    """And no error, whatever it is."""
    for code in (0, 1, 137):
        told = outcome(ran(Ended(code)), capture, spool)
        result = msgspec.json.decode(told.text)
        assert (result["exit_code"], result["success"], told.is_error) == (code, code == 0, False)
        assert "note" not in result


def test_a_timeout_is_an_error(capture: Capture, spool: Spool) -> None:
    """It says after how long, and what to do."""
    told = outcome(ran(None), capture, spool)
    result = msgspec.json.decode(told.text)
    assert told.is_error
    assert (result["exit_code"], result["success"], result["timed_out"]) == (None, False, True)
    assert result["note"] == "stopped after 5 s; do less at once, or give a longer timeout_s"


def test_a_command_that_never_ran(capture: Capture, spool: Spool) -> None:
    """What its sandbox said is why."""
    capture.stderr.take(b"bwrap: no\n")
    with pytest.raises(ToolError, match=r"its sandbox could not be set up: bwrap: no$"):
        outcome(ran(Ended(None, unboxed=True)), capture, spool)


def test_an_end_that_nobody_saw(capture: Capture, spool: Spool) -> None:
    """It is not made up."""
    with pytest.raises(ToolError, match="how the command ended is not known"):
        outcome(ran(Ended(None)), capture, spool)


def test_the_text_has_its_bound(capture: Capture, spool: Spool) -> None:
    """However long command, place and output are, and however badly they go into JSON."""
    spool.begin()
    spool.write(b"all of it")
    spool.dropped = 10**12
    for excerpt in (capture.stdout, capture.stderr):
        excerpt.take(b"\x01" * 100_000)
    told = outcome(ran(Ended(0), "\x02" * MAX_COMMAND_BYTES, "/" + "\x03" * 4_000), capture, spool)
    assert MAX_TOOL_TEXT_BYTES - 64 <= len(told.text.encode()) <= MAX_TOOL_TEXT_BYTES
    result = msgspec.json.decode(told.text)
    assert result["stdout_truncated"]
    assert result["stderr_truncated"]
    assert told.full_output == b"all of it"
    spool.remove()
