"""A call that changes files: what is shown, noted, done and found out afterwards is one thing."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.hooks.os.files.transaction import names_beside
from kheishd.hooks.files.arguments import ApplyPatch, EditFile, WriteFile
from kheishd.hooks.files.changing import changed, looked_into, noted, shown
from kheishd.hooks.files.looking import ABSENT
from kheishd.hooks.os.files.edits import Order, orders_of
from kheishd.kernel.hook import ProbeResult, Stale, ToolError
from protocol.limits.call import MAX_EVIDENCE_BYTES, MAX_SUBJECT_BYTES
from protocol.limits.files import MAX_PATCH_FILES


def digest(content: bytes) -> str:
    """As evidence has it."""
    return hashlib.sha256(content).hexdigest()


def patch(workspace: Path, **new: str) -> list[Order]:
    """Orders to replace "old" by something, in some files."""
    hunks = [EditFile(path=path, old_text="old", new_text=text) for path, text in new.items()]
    return orders_of(ApplyPatch(hunks=hunks), str(workspace))


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    """A workspace with two files."""
    for path in ("f", "g"):
        (tmp_path / path).write_text("old")
    return tmp_path


def test_shown_noted_done(ws: Path) -> None:
    """The preview binds to what is there, evidence has both states, and then the second is there."""
    orders = patch(ws, g="two", f="one")
    preview = shown(str(ws), orders)
    assert (preview.kind, preview.text.count("-old")) == ("diff", 2)
    assert noted(str(ws), orders) == {
        "before": [digest(b"old")] * 2,
        "after": [digest(b"one"), digest(b"two")],
    }
    changes = changed(str(ws), orders, "key", preview.binding)
    assert [change.digest for change in changes] == [digest(b"one"), digest(b"two")]
    assert ((ws / "f").read_text(), (ws / "g").read_text()) == ("one", "two")


def test_showing_and_noting_make_nothing(tmp_path: Path) -> None:
    """Not even directories; a new file is shown and noted as absent."""
    orders = orders_of(WriteFile(path="a/b", content="new"), str(tmp_path))
    assert shown(str(tmp_path), orders).text.startswith("--- /dev/null\n+++ b/a/b\n")
    assert noted(str(tmp_path), orders) == {"before": [ABSENT], "after": [digest(b"new")]}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done(ws: Path) -> None:
    """Is not shown, nothing is noted, and nothing is done, also to the file that comes first."""
    orders = patch(ws, f="one", gone="two")
    with pytest.raises(ToolError, match="there is no gone"):
        shown(str(ws), orders)
    assert noted(str(ws), orders) == {}
    with pytest.raises(ToolError, match="there is no gone"):
        changed(str(ws), orders, "key", None)
    assert (ws / "f").read_text() == "old"


@pytest.mark.parametrize("content", ["other", "old and more", None])
def test_what_was_shown_is_not_there_any_more(ws: Path, content: str | None) -> None:
    """The person is asked again, whether or not it could still be done."""
    orders = patch(ws, f="one", g="two")
    binding = shown(str(ws), orders).binding
    (ws / "g").unlink()
    if content is not None:
        (ws / "g").write_text(content)
    with pytest.raises(Stale):
        changed(str(ws), orders, "key", binding)
    assert (ws / "f").read_text() == "old"


def test_a_file_that_came_into_being_is_stale_too(tmp_path: Path) -> None:
    """A file that was shown as new is not overwritten."""
    orders = orders_of(WriteFile(path="f", content="new"), str(tmp_path))
    binding = shown(str(tmp_path), orders).binding
    (tmp_path / "f").write_text("")
    with pytest.raises(Stale):
        changed(str(tmp_path), orders, "key", binding)


def after_kill(ws: Path, kept: str = "old", **contents: str) -> tuple[ProbeResult, dict[str, str]]:
    """What is found out when the files are these after a kill, and what they are then."""
    orders = patch(ws, f="one", g="two")
    evidence = noted(str(ws), orders)
    for path, content in contents.items():
        new, old = names_beside("key", path)
        (ws / path).write_text(content)
        (ws / old).write_text(kept)
        (ws / new).write_text("half")
    finding = looked_into(str(ws), orders, "key", evidence)
    return finding, {path.name: path.read_text() for path in ws.iterdir()}


def test_killed_after_all(ws: Path) -> None:
    """It is done, and what was left beside is removed."""
    finding, files = after_kill(ws, f="one", g="two")
    assert (finding.outcome, files) == ("done", {"f": "one", "g": "two"})


def test_killed_before_anything(ws: Path) -> None:
    """It may be run again."""
    finding, files = after_kill(ws, f="old", g="old")
    assert (finding.outcome, files) == ("not_done", {"f": "old", "g": "old"})


def test_killed_half_way(ws: Path) -> None:
    """The half that was done is undone."""
    finding, files = after_kill(ws, f="one", g="old")
    assert (finding.outcome, files) == ("not_done", {"f": "old", "g": "old"})


def test_killed_half_way_and_what_was_replaced_is_lost(ws: Path) -> None:
    """What stands beside is not what was there: nobody can tell, and what is found is told."""
    finding, files = after_kill(ws, kept="something", f="one", g="old")
    assert (finding.outcome, files) == ("unknown", {"f": "one", "g": "old"})
    assert finding.evidence == {"found": [digest(b"one"), digest(b"old")]}


def test_killed_and_changed_by_somebody_since(ws: Path) -> None:
    """Nothing is undone over what somebody else made."""
    finding, files = after_kill(ws, f="one", g="theirs")
    assert (finding.outcome, files) == ("unknown", {"f": "one", "g": "theirs"})


@pytest.mark.parametrize("evidence", [{}, {"before": ["x"], "after": ["x"]}])
def test_without_evidence_nobody_can_tell(ws: Path, evidence: dict[str, Any]) -> None:
    """Also if it is another call's."""
    assert looked_into(str(ws), patch(ws, f="one", g="two"), "key", evidence).outcome == "unknown"


def test_the_same_content_written_again_is_done(ws: Path) -> None:
    """Before and after are one state: running it again would change nothing."""
    orders = orders_of(WriteFile(path="f", content="old"), str(ws))
    assert looked_into(str(ws), orders, "key", noted(str(ws), orders)).outcome == "done"


def test_evidence_fits(tmp_path: Path) -> None:
    """That of the largest patch there may be."""
    width = MAX_SUBJECT_BYTES // MAX_PATCH_FILES - 1
    paths = [f"{number:0{width}}" for number in range(MAX_PATCH_FILES)]
    for path in paths:
        (tmp_path / path).write_text("old")
    orders = patch(tmp_path, **dict.fromkeys(paths, "new"))
    evidence = noted(str(tmp_path), orders)
    assert len(evidence["after"]) == MAX_PATCH_FILES
    assert len(msgspec.json.encode(evidence)) <= MAX_EVIDENCE_BYTES
    assert len(changed(str(tmp_path), orders, "key", None)) == MAX_PATCH_FILES
