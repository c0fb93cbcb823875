"""Exports of a real daemon: signed, verified without it, refused if changed, and valid when imported."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home
from tests.support.waiting_runs import order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Lines = list[str]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon for all tests of the module."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ctl(daemon: Daemon) -> Ctl:
    """Return ``kheishctl`` for the daemon."""
    return Ctl(daemon.home)


@pytest.fixture(scope="module")
def session_id(daemon: Daemon) -> str:
    """Return a session with answers, calls and results."""
    daemon.say("hello", sender="exported")
    (daemon.home / "workspace" / "notes").write_text("seen\n")
    sent = daemon.say(order("read_file", path="notes"), sender="exported")
    return str(sent["session_id"])


@pytest.fixture(scope="module")
def file(ctl: Ctl, daemon: Daemon, session_id: str) -> Path:
    """Return a signed export."""
    path = daemon.home.parent / "session.jsonl"
    ctl.json("session", "export", session_id, str(path), "--sign")
    return path


def rechain(lines: Lines, change: Callable[[Lines], Lines], *, with_end: bool) -> Lines:
    """Change the events of an export and compute all hashes anew, perhaps those of its end, too."""
    *chained, last = lines
    digest, forged = bytes(32), []
    for stored in change([line[line.index('"event":') + 8 : -1] for line in chained]):
        digest = sha256(digest + stored.encode()).digest()
        forged.append(f'{{"hash":"{digest.hex()}","event":{stored}}}')
    end: dict[str, Any] = json.loads(last)["end"]
    if with_end:
        cursor = json.loads(forged[-1])["event"]["cursor"]
        end |= {"hash": digest.hex(), "lines": len(forged), "cursor": cursor}
    return [*forged, json.dumps({"end": end}, separators=(",", ":"))]


def edit(events: Lines) -> Lines:
    """Change one text."""
    return [event.replace("seen", "forged") for event in events]


CHANGES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "truncated": (lambda lines: lines[:-1], "is truncated: after line"),
    "truncated_before_the_end": (lambda lines: [*lines[:-4], lines[-1]], "is truncated at line"),
    "edited": (lambda lines: edit(lines), "it was edited"),
    "removed": (lambda lines: [*lines[:3], *lines[4:]], "breaks at line 4"),
    "reordered": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3 was reordered"),
    "repeated": (lambda lines: [*lines[:3], *lines[2:]], "line 4 was reordered or repeated"),
    "rechained": (lambda lines: rechain(lines, edit, with_end=False), "was rechained: its end, signed by"),
    "rechained_with_its_end": (lambda lines: rechain(lines, edit, with_end=True), "the signature in line"),
    "shortened_and_rechained": (
        lambda lines: rechain(lines, lambda events: events[:-2], with_end=True),
        "the signature in line",
    ),
    "appended": (lambda lines: [*lines, lines[-2]], "follows the end"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_export_is_refused_as_such(
    ctl: Ctl, daemon: Daemon, file: Path, tmp_path: Path, name: str
) -> None:
    """Verification and import name the kind of change and the first bad line; nothing is imported."""
    change, words = CHANGES[name]
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    sessions = daemon.call("daemon.status")["counts"]["sessions"]
    for command in ("verify", "import"):
        done = ctl("session", command, str(changed))
        assert (done.code, words in done.err) == (exit_codes.FAILED, True), done.err
        assert "line" in done.err
    assert daemon.call("daemon.status")["counts"]["sessions"] == sessions


def test_a_signed_export_names_its_key(ctl: Ctl, daemon: Daemon, file: Path) -> None:
    """The key of the home signs; verification and import name it, and may require it."""
    key = ctl.json("session", "key")["key"]
    verified = ctl.json("session", "verify", str(file), "--signed-by", key)
    assert (verified["signed_by"], verified["lines"]) == (key, len(file.read_text().splitlines()) - 1)
    assert ctl.json("session", "import", str(file), "--signed-by", key)["signed_by"] == key
    other = "ed25519:" + "A" * 43 + "="
    for command in ("verify", "import"):
        done = ctl("session", command, str(file), "--signed-by", other)
        assert (done.code, f"signed by the key {key}, not by" in done.err) == (exit_codes.FAILED, True)
    assert (daemon.home / "export.key").stat().st_mode & 0o777 == 0o600


def test_without_the_signature_only_the_key_tells(ctl: Ctl, file: Path, tmp_path: Path) -> None:
    """An export that was forged whole, without a signature, is refused where a key is required."""
    forged = rechain(file.read_text().splitlines(), edit, with_end=True)
    end = json.loads(forged[-1])["end"]
    del end["signature"]
    path = tmp_path / "forged.jsonl"
    path.write_text("\n".join([*forged[:-1], json.dumps({"end": end}, separators=(",", ":"))]))
    done = ctl("session", "verify", str(path), "--signed-by", ctl.json("session", "key")["key"])
    assert (done.code, "is not signed" in done.err) == (exit_codes.FAILED, True)


def test_the_home_itself_needs_no_signature(ctl: Ctl, file: Path, tmp_path: Path) -> None:
    """The daemon that made an export finds each changed line, even if all hashes were computed anew."""
    forged = rechain(file.read_text().splitlines(), edit, with_end=True)
    end = json.loads(forged[-1])["end"]
    del end["signature"]
    path = tmp_path / "forged.jsonl"
    path.write_text("\n".join([*forged[:-1], json.dumps({"end": end}, separators=(",", ":"))]))
    done = ctl("session", "import", str(path))
    line = 1 + next(index for index, text in enumerate(forged) if "forged" in text)
    assert (done.code, f"was rechained: line {line} is not the line" in done.err) == (exit_codes.FAILED, True)


def test_an_import_continues(ctl: Ctl, daemon: Daemon, file: Path, session_id: str) -> None:
    """An imported session has the messages of the exported one, calls with their results, and continues."""
    copy = ctl.json("session", "import", str(file))["session_id"]

    def messages(session: str) -> list[dict[str, Any]]:
        rows = daemon.call("session.history", session_id=session)["messages"]
        return [row["message"] for row in rows]

    assert messages(copy) == messages(session_id)
    sent = daemon.call("session.send", session_id=copy, content="And now?", wait="settled")
    assert sent["status"] == "completed"
    again = daemon.home.parent / "again.jsonl"
    ctl.json("session", "export", copy, str(again))
    assert messages(ctl.json("session", "import", str(again))["session_id"]) == messages(copy)


def test_a_fork_amid_a_call_is_exported_and_imported(ctl: Ctl, daemon: Daemon, session_id: str) -> None:
    """A fork at any cursor gives an export whose import is valid: every call has one result."""
    events = daemon.events(session_id=session_id)
    for event in events:
        fork = daemon.call("session.fork", session_id=session_id, at=event["cursor"])["session_id"]
        file = daemon.home.parent / "fork.jsonl"
        ctl.json("session", "export", fork, str(file))
        copy = ctl.json("session", "import", str(file))["session_id"]
        roles: list[str] = []
        for row in daemon.call("session.history", session_id=copy)["messages"]:
            roles.append(row["message"]["role"])
            calls = [item for item in row["message"]["items"] if item["kind"] == "tool_call"]
            roles += ["results"] * bool(calls)
        text = " ".join(roles)
        assert text.count("results") == text.count("results tool"), roles
        assert (
            daemon.call("session.send", session_id=copy, content="x", wait="settled")["status"] == "completed"
        )


def test_what_a_provider_would_refuse_is_refused(ctl: Ctl, file: Path, tmp_path: Path) -> None:
    """A forged export with a valid chain and end cannot give a user tool calls."""

    def forge(events: Lines) -> Lines:
        return [
            event.replace('"role":"assistant"', '"role":"user"') if 'tool_call"' in event else event
            for event in events
        ]

    forged = rechain(file.read_text().splitlines(), forge, with_end=True)
    # The export of another home.
    end = json.loads(forged[-1])["end"] | {"epoch": "another"}
    del end["signature"]
    path = tmp_path / "forged.jsonl"
    path.write_text("\n".join([*forged[:-1], json.dumps({"end": end}, separators=(",", ":"))]))
    assert ctl("session", "verify", str(path)).code == 0
    done = ctl("session", "import", str(path))
    assert done.code == exit_codes.FAILED
    assert "role 'user' has an item of the kind 'tool_call'" in done.err


def test_an_export_of_an_earlier_version(ctl: Ctl, file: Path, tmp_path: Path) -> None:
    """An export without an end is imported only if that is asked for."""
    old = tmp_path / "old.jsonl"
    old.write_text("\n".join(file.read_text().splitlines()[:-1]))
    assert ctl("session", "import", str(old)).code == exit_codes.FAILED
    assert ctl("session", "verify", str(old), "--without-end").code == 0
    assert ctl("session", "import", str(old), "--without-end").code == 0


def test_a_backup_has_no_key(ctl: Ctl, daemon: Daemon) -> None:
    """The private key is in no backup."""
    backup = daemon.home.parent / "backup"
    ctl.json("session", "key")
    ctl.json("daemon", "backup", str(backup))
    secret = (daemon.home / "export.key").read_bytes().strip()
    assert all(secret not in path.read_bytes() for path in backup.iterdir())
    shutil.rmtree(backup)
