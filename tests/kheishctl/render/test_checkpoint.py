"""Checkpoints as text."""

from kheishctl.render.checkpoint import format_diff, format_restored
from kheishctl.render.layout import Display

PLAIN = Display(80, False, 0)


def test_a_diff() -> None:
    """A diff has colors on a terminal, and lines about what it does not cover."""
    diff = {"text": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\x1b[2J\n+b\n", "files": ["f"], "more": 2, "note": "n"}
    assert format_diff(diff, PLAIN).split("\n")[2:] == [
        "@@ -1 +1 @@",
        "-a␛[2J",
        "+b",
        "2 more files changed, which were not saved",
        "n",
    ]
    assert "\x1b[32m+b" in format_diff(diff, Display(80, True, 0))
    assert format_diff({"text": "\n", "files": []}, PLAIN) == "the files are as they were before"


def test_a_restore() -> None:
    """Each file has a line with what happened to it."""
    files = [{"path": "a", "action": "written"}, {"path": "b", "action": "unsaved", "problem": "too large"}]
    assert format_restored({"files": files}, PLAIN) == "a: restored\nb: not restored (too large)"
    assert format_restored({"kind": "redo", "files": files[:1]}, PLAIN) == "a: redone"
    assert format_restored({"files": []}, PLAIN) == "no files were changed"
