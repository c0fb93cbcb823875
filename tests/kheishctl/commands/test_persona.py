"""``kheishctl persona``."""

from pathlib import Path

from tests.support.ctl import Ctl


def test_a_persona_from_its_creation_to_its_deletion(ctl: Ctl, tmp_path: Path, sender: str) -> None:
    """Each command shows the object; the soul comes last, and is read from a file."""
    soul = tmp_path / "soul.md"
    soul.write_text("# Strict\n\nBe strict.\n")
    made = ctl.json("persona", "create", "A critic", "--id", sender, "--soul", str(soul))
    assert (made["version"], made["display_name"]) == (1, "A critic")
    shown = ctl("persona", "show", sender).out
    assert shown.rstrip().endswith("Be strict.")
    words = ["persona", "update", sender, "--soul", "-"]
    assert ctl.json(*words, stdin="Be kind.")["version"] == 2
    assert ctl("persona", "show", sender).out.rstrip().endswith("Be kind.")
    assert ctl(*words, stdin=b"\xff").code == 2
    changed = ctl.json("persona", "update", sender, "--name", "B", "--scope", '{"tools": []}')
    assert (changed["version"], changed["scope"]) == (3, {"tools": []})
    assert [sender, "3", "B"] in [row[:3] for row in ctl("persona", "list", "--query", sender).rows]
    session_id = ctl.json("session", "create", "--persona", sender)["session_id"]
    rows = ctl.json("session", "list", "--persona", sender)["sessions"]
    assert [row["session_id"] for row in rows] == [session_id]
    assert "persona" not in ctl.json("persona", "unbind", session_id)
    assert ctl.json("persona", "bind", session_id, sender)["persona"]["version"] == 3
    ctl("persona", "delete", sender)
    assert ctl("persona", "show", sender).code == 1


def test_import(ctl: Ctl, tmp_path: Path, sender: str) -> None:
    """A file becomes a persona, named by its heading; one that cannot be read is named."""
    path = tmp_path / "critic.md"
    path.write_text("# Strict\n\nBe strict.\n")
    assert ctl.json("persona", "import", str(path), "--id", sender)["display_name"] == "Strict"
    path.write_bytes(b"\xff")
    done = ctl("persona", "import", str(path))
    assert (done.code, "cannot be read as UTF-8" in done.err) == (2, True)
    done = ctl("persona", "import", str(tmp_path / "nope.md"))
    assert (done.code, "nope.md cannot be read: No such file" in done.err) == (2, True)
