"""``kheishctl memory``."""

from pathlib import Path

import pytest

from tests.support.ctl import Ctl


def test_a_note_from_its_beginning_to_its_end(ctl: Ctl, tmp_path: Path, sender: str) -> None:
    """A note is written, shown, found, exported, imported again, and forgotten."""
    made = ctl.json("memory", "remember", sender, f"Soup of {sender}.", "--alias", f"alias {sender}")
    assert (made["version"], made["aliases"]) == (1, [f"alias {sender}"])
    assert ctl("memory", "show", f"ALIAS {sender}").out.rstrip().endswith(f"Soup of {sender}.")
    assert sender in [row[0] for row in ctl("memory", "list", "--all").rows]
    hits = ctl.json("memory", "search", "soup", sender)["notes"]
    assert hits[0]["name"] == sender
    exported = ctl.json("memory", "export", str(tmp_path / "notes"))
    (file,) = (name for name in exported["files"] if sender.replace("_", "-").lower() in name)
    text = (tmp_path / "notes" / file).read_text()
    assert ctl.json("memory", "forget", sender)["name"] == sender
    assert ctl("memory", "show", sender).code == 1
    assert ctl.json("memory", "import", str(tmp_path / "notes" / file))["notes"] == [sender]
    ctl("memory", "export", str(tmp_path / "again"))
    assert (tmp_path / "again" / file).read_text() == text
    ctl("memory", "forget", sender)


def test_edit(ctl: Ctl, tmp_path: Path, sender: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The editor gets the text; a text that is the same changes nothing."""
    ctl.json("memory", "remember", sender, "first")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf second > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    assert ctl.json("memory", "edit", sender)["content"] == "second"
    assert "not changed" in ctl("memory", "edit", sender).out
    ctl("memory", "forget", sender)


def test_a_file_that_cannot_be_read(ctl: Ctl, tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "bad.md"
    path.write_bytes(b"\xff")
    done = ctl("memory", "import", str(path))
    assert (done.code, "bad.md cannot be read" in done.err) == (1, True)
