"""Checkpoints as text: diffs, and the report on a restore. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishctl.render.layout import paint
from protocol.text import one_line, sanitize

if TYPE_CHECKING:
    from kheishctl.contract import Json
    from kheishctl.render.layout import Display

ACTIONS = {
    "written": "restored",
    "deleted": "deleted, as it did not exist before",
    "unchanged": "already as before",
    "unsaved": "not restored",
    "changed": "changed since by others",
}

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def format_diff(diff: Json, display: Display) -> str:
    """Format the changes of files since a checkpoint."""
    lines = [
        paint(line, _STYLES[line[0]], display.color) if line[:1] in _STYLES else line
        for line in sanitize(str(diff["text"])).rstrip("\n").split("\n")
    ]
    if not diff["files"]:
        lines = ["the files are as they were before"]
    return "\n".join([*lines, *_format_rest(diff)])


def format_restored(restored: Json, display: Display) -> str:
    """Format the result of a restore, one line per file."""
    lines = []
    for file in restored["files"]:
        problem = f" ({file['problem']})" if file.get("problem") else ""
        is_redone = restored.get("kind") == "redo" and file["action"] == "written"
        action = "redone" if is_redone else ACTIONS[file["action"]]
        lines.append(one_line(f"{file['path']}: {action}{problem}"))
    return "\n".join([*(lines or ["no files were changed"]), *_format_rest(restored)])


def _format_rest(result: Json) -> list[str]:
    """Return lines about changes that the checkpoints do not cover."""
    more = result.get("more", 0)
    lines = [f"{more} more files changed, which were not saved"] if more else []
    return [*lines, *([one_line(str(result["note"]))] if result.get("note") else [])]
