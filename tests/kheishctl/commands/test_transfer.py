"""``kheishctl session export|import``."""

import io
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl import exit_codes
from kheishctl.commands import transfer
from kheishctl.commands.transfer import split_parts
from kheishctl.contract import MAX_IMPORT_BYTES
from tests.support.ctl import Ctl


@pytest.fixture
def session(ctl: Ctl, sender: str) -> str:
    """Return a session with two runs."""
    ctl.json("send", "default", "one", "--as", sender)
    return str(ctl.json("send", "default", "two", "--as", sender)["session_id"])


def test_export_and_import(ctl: Ctl, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export in pages and an import in parts reproduce the conversation, which continues."""
    monkeypatch.setattr(transfer, "MAX_PAGE_ROWS", 3)
    monkeypatch.setattr(transfer, "MAX_IMPORT_LINES", 4)
    file = tmp_path / "session.jsonl"
    summary = ctl.json("session", "export", session, str(file))
    lines = file.read_text().splitlines()
    assert summary["lines"] == len(lines) - 1 > 6
    assert all(json.loads(line).keys() == {"hash", "event"} for line in lines[:-1])
    assert json.loads(lines[-1])["end"]["lines"] == len(lines) - 1
    assert not list(tmp_path.glob("*.part"))
    copy = ctl.json("session", "import", str(file))["session_id"]
    assert copy != session
    texts = [[row[2] for row in ctl("session", "history", session_id).rows] for session_id in (session, copy)]
    assert texts[0] == texts[1]
    assert "before it you said: “two”" in ctl("session", "send", copy, "three").out


def test_an_export_is_private(ctl: Ctl, session: str, tmp_path: Path) -> None:
    """Other users cannot read the file, and it is never written through a link."""
    file = tmp_path / "session.jsonl"
    ctl.json("session", "export", session, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "other.jsonl.part").symlink_to(tmp_path / "precious")
    assert ctl("session", "export", session, str(tmp_path / "other.jsonl")).code == exit_codes.FAILED
    assert not (tmp_path / "precious").exists()


def test_an_export_replaces_only_files(ctl: Ctl, session: str, tmp_path: Path) -> None:
    """A pipe or a device is written to, a link leads to its file, and a missing directory is named."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_text().splitlines()))
    reader.start()
    assert ctl.json("session", "export", session, str(pipe))["lines"] > 6
    reader.join(10)
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to("file")
    ctl.json("session", "export", session, str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text().splitlines()[:-1] == lines[:-1]
    nowhere = ctl("session", "export", session, str(tmp_path / "none" / "file"))
    assert (nowhere.code, f"{tmp_path}/none does not exist" in nowhere.err) == (exit_codes.FAILED, True)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_an_export_is_escaped_on_a_terminal() -> None:
    """A terminal receives active characters of an export escaped."""
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
    """An export to standard output can be imported from standard input."""
    exported = ctl("session", "export", session).out
    assert ctl("session", "import", "-", stdin=exported).code == 0


def test_an_unknown_session_leaves_no_file(ctl: Ctl, tmp_path: Path) -> None:
    """An unknown session leaves no file behind."""
    assert ctl("session", "export", "none", str(tmp_path / "x")).code == exit_codes.FAILED
    assert list(tmp_path.iterdir()) == []


def test_export_as_json_needs_a_file(ctl: Ctl, session: str) -> None:
    """With --json, standard output cannot hold the export."""
    assert ctl("session", "export", session, "--json").code == exit_codes.USAGE


def test_a_damaged_export_is_refused(ctl: Ctl, session: str) -> None:
    """A changed line breaks the hash chain and is refused."""
    exported = ctl("session", "export", session).out.replace("one", "eno", 1)
    done = ctl("session", "import", "-", stdin=exported)
    assert done.code == exit_codes.FAILED
    assert ctl("session", "import", "-", stdin="").code == exit_codes.USAGE


def test_a_damaged_line_is_found_before_anything_is_sent(
    ctl: Ctl, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the line in the file, and nothing of the file is imported."""
    monkeypatch.setattr(transfer, "MAX_IMPORT_LINES", 4)
    previous = len(ctl("session", "list", "--all").rows)
    lines = ctl("session", "export", session).out.splitlines()
    lines[5] = "nonsense"
    done = ctl("session", "import", "-", stdin="\n".join(lines))
    assert "line 6 is not a line of an export" in done.err
    assert len(ctl("session", "list", "--all").rows) == previous


def test_a_later_part_that_is_refused_names_the_session(
    ctl: Ctl, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the daemon refuses a later part, the message names the session that holds the earlier ones."""
    monkeypatch.setattr(transfer, "MAX_IMPORT_LINES", 4)
    lines = ctl("session", "export", session).out.splitlines()
    monkeypatch.setattr(transfer, "_verify", lambda source, signed_by, without_end: None)
    done = ctl("session", "import", "-", stdin="\n".join(lines[:-1]))
    assert "the export is truncated" in done.err
    assert "(the session ses_" in done.err


def test_a_binary_file_is_no_export(ctl: Ctl) -> None:
    """A file that is not text is refused without a traceback."""
    done = ctl("session", "import", "-", stdin=b"\xff\xfe\n")
    assert (done.code, done.err) == (
        exit_codes.FAILED,
        "kheishctl: this is not an export: it is not UTF-8 text\n",
    )


def test_check_changes_nothing(ctl: Ctl, session: str, tmp_path: Path) -> None:
    """A dry run validates the first part and imports nothing."""
    previous = len(ctl("session", "list", "--all").rows)
    exported = ctl("session", "export", session).out
    assert ctl("session", "import", "-", "--check", stdin=exported).code == 0
    assert len(ctl("session", "list", "--all").rows) == previous


@given(st.lists(st.text(max_size=200)), st.integers(1, 5), st.integers(1, 300))
def test_parts_keep_every_line_in_order(lines: list[str], count: int, size: int) -> None:
    """Parts stay within both limits, except for one longer line, and keep all lines in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "MAX_IMPORT_LINES", count)
        patch.setattr(transfer, "MAX_IMPORT_BYTES", size)
        parts = list(split_parts(lines))
    assert [line for part in parts for line in part] == [line for line in lines if line]
    for part in parts:
        assert len(part) <= count
        assert len(part) == 1 or sum(len(line.encode()) for line in part) <= size


def test_a_part_fits_into_a_transaction() -> None:
    """The largest part fits into one transaction."""
    from protocol.limits.store import MAX_UPDATE_BYTES

    assert MAX_IMPORT_BYTES < MAX_UPDATE_BYTES
