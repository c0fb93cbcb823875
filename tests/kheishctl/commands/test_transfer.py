"""``kheishctl session export|import``."""

import io
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl import exits
from kheishctl.commands import transfer
from kheishctl.commands.transfer import split_parts
from kheishctl.contract import MAX_IMPORT_BYTES
from tests.support.ctl import Ctl


@pytest.fixture
def session(ctl: Ctl, sender: str) -> str:
    """A session of two turns."""
    ctl.json("send", "default", "one", "--as", sender)
    return str(ctl.json("send", "default", "two", "--as", sender)["session_id"])


def test_there_and_back(ctl: Ctl, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export in pages, an import in parts: the same conversation, which can be continued."""
    monkeypatch.setattr(transfer, "MAX_PAGE_ROWS", 3)
    monkeypatch.setattr(transfer, "MAX_IMPORT_LINES", 4)
    file = tmp_path / "session.jsonl"
    told = ctl.json("session", "export", session, str(file))
    lines = file.read_text().splitlines()
    assert told["lines"] == len(lines) > 6
    assert all(json.loads(line).keys() == {"hash", "event"} for line in lines)
    assert not list(tmp_path.glob("*.part"))
    copy = ctl.json("session", "import", str(file))["session_id"]
    assert copy != session
    texts = [[row[2] for row in ctl("session", "history", each).rows] for each in (session, copy)]
    assert texts[0] == texts[1]
    assert "before it you said: “two”" in ctl("session", "send", copy, "three").out


def test_an_export_is_for_its_owner_alone(ctl: Ctl, session: str, tmp_path: Path) -> None:
    """Nobody else may read it, and it is not written through a link that somebody laid out."""
    file = tmp_path / "session.jsonl"
    ctl.json("session", "export", session, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "other.jsonl.part").symlink_to(tmp_path / "precious")
    assert ctl("session", "export", session, str(tmp_path / "other.jsonl")).code == exits.FAILED
    assert not (tmp_path / "precious").exists()


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_escapes() -> None:
    """A title may hold what a terminal acts on, and JSON passes most of it on as it is."""
    line = '{"title":"\\u001b[2J \u009b2J \u202e"}'
    out = Terminal()
    assert transfer._write(out, [line, "\x1b]0;posing as a daemon\x07"]) == 2
    first, second = out.getvalue().splitlines()
    assert first.isascii()
    assert json.loads(first) == json.loads(line)
    assert second == "␛]0;posing as a daemon␇"
    pipe = io.StringIO()
    transfer._write(pipe, [line])
    assert pipe.getvalue() == line + "\n"


def test_through_a_pipe(ctl: Ctl, session: str) -> None:
    """Standard output and standard input do, too."""
    exported = ctl("session", "export", session).out
    assert ctl("session", "import", "-", stdin=exported).code == 0


def test_an_unknown_session_leaves_no_file(ctl: Ctl, tmp_path: Path) -> None:
    """Nothing is written before the daemon has answered."""
    assert ctl("session", "export", "none", str(tmp_path / "x")).code == exits.FAILED
    assert list(tmp_path.iterdir()) == []


def test_export_as_json_needs_a_file(ctl: Ctl, session: str) -> None:
    """One document cannot be both the export and what is told of it."""
    assert ctl("session", "export", session, "--json").code == exits.USAGE


def test_a_damaged_export_is_refused(ctl: Ctl, session: str) -> None:
    """A changed line breaks the chain."""
    exported = ctl("session", "export", session).out.replace("one", "eno", 1)
    done = ctl("session", "import", "-", stdin=exported)
    assert done.code == exits.FAILED
    assert ctl("session", "import", "-", stdin="").code == exits.USAGE


def test_a_damage_further_on_says_what_there_is(
    ctl: Ctl, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before it is a session, and lines are counted as people count."""
    monkeypatch.setattr(transfer, "MAX_IMPORT_LINES", 4)
    lines = ctl("session", "export", session).out.splitlines()
    lines[5] = "nonsense"
    done = ctl("session", "import", "-", stdin="\n".join(lines))
    assert "line 2 is not a line of an export" in done.err
    assert "counted after the first 4 lines, which session ses_" in done.err


def test_what_is_no_text_is_no_export(ctl: Ctl) -> None:
    """It is said, without a traceback."""
    done = ctl("session", "import", "-", stdin=b"\xff\xfe\n")
    assert (done.code, done.err) == (exits.FAILED, "kheishctl: this is not an export: it is not UTF-8 text\n")


def test_check_changes_nothing(ctl: Ctl, session: str, tmp_path: Path) -> None:
    """A check says whether the first part would be taken."""
    before = len(ctl("session", "list", "--all").rows)
    exported = ctl("session", "export", session).out
    assert ctl("session", "import", "-", "--check", stdin=exported).code == 0
    assert len(ctl("session", "list", "--all").rows) == before


@given(st.lists(st.text(max_size=200)), st.integers(1, 5), st.integers(1, 300))
def test_parts_keep_every_line_in_order(lines: list[str], count: int, size: int) -> None:
    """Parts stay within both limits, unless one line alone does not; nothing is lost but empty lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "MAX_IMPORT_LINES", count)
        patch.setattr(transfer, "MAX_IMPORT_BYTES", size)
        found = list(split_parts(lines))
    assert [line for part in found for line in part] == [line for line in lines if line]
    for part in found:
        assert len(part) <= count
        assert len(part) == 1 or sum(len(line.encode()) for line in part) <= size


def test_a_part_fits_into_a_transaction() -> None:
    """The limit leaves room within what one transaction may write."""
    from protocol.limits.store import MAX_UPDATE_BYTES

    assert MAX_IMPORT_BYTES < MAX_UPDATE_BYTES
