"""The rows of the file tools: what a model is told of each, and what the daemon must know of it."""

from collections.abc import Iterable
from typing import Any, Final

from kheishd.hooks.files.arguments import (
    ApplyPatch,
    EditFile,
    ListFiles,
    Pattern,
    ReadFile,
    WriteFile,
    schema_of,
)
from kheishd.kernel.hook import Tool

_READS: Final[dict[str, Any]] = {
    "kind": "read",
    "default": "allow",
    "repeatable": True,
    "parallel": True,
    "in_plan": True,
}


def _written(arguments: Any) -> Iterable[str]:
    return [hunk["path"] for hunk in arguments.get("hunks", [arguments])]


_EDITS: Final[dict[str, Any]] = {"kind": "edit", "default": "ask", "writes": _written}

_REGEX: Final = (
    "Find the lines that match a regular expression (ripgrep's syntax). Binary files, those over 4 MiB and "
    "what .gitignore names are passed over."
)
_LITERAL: Final = (
    "Find the lines that contain a text, exactly as it is given: regular expressions are not available here. "
    "Binary files and those over 4 MiB are passed over."
)


def tools(*, regex: bool) -> tuple[Tool, ...]:
    """The seven tools; ``regex``: whether ``grep_search`` takes regular expressions."""
    return (
        Tool(
            "read_file",
            "Read a text file, or some lines of it. Gives the SHA-256 of the whole file. Where the result is "
            "truncated, go on at next_line.",
            schema_of(ReadFile),
            timeout_s=5.0,
            droppable=True,
            **_READS,
        ),
        Tool(
            "write_file",
            "Make a file, or replace all of its content. Give either content or content_base64. Directories "
            "are made as needed. To change part of a file use edit_file.",
            schema_of(WriteFile),
            timeout_s=5.0,
            **_EDITS,
        ),
        Tool(
            "edit_file",
            "Replace a text in a file by another. old_text must match exactly and occur once, unless "
            "replace_all is said. Give expected_sha256 to be sure that the file is what you read.",
            schema_of(EditFile),
            timeout_s=5.0,
            **_EDITS,
        ),
        Tool(
            "apply_patch",
            "Make several replacements, in one file or in many: all of them or none. Each is like a call of "
            "edit_file; later ones see what earlier ones made.",
            schema_of(ApplyPatch),
            timeout_s=10.0,
            **_EDITS,
        ),
        Tool(
            "list_files",
            "List what is in a directory and below it, nearest first. Directories end in '/'; .git is left "
            "out.",
            schema_of(ListFiles),
            timeout_s=10.0,
            **_READS,
        ),
        Tool(
            "glob_search",
            "Find files whose path below base fits a pattern: '*' and '?' within a name, '[abc]', "
            "'{one,other}', and '**' for any number of directories, as in 'src/**/*.py'.",
            schema_of(Pattern),
            timeout_s=10.0,
            droppable=True,
            **_READS,
        ),
        Tool(
            "grep_search",
            _REGEX if regex else _LITERAL,
            schema_of(Pattern),
            timeout_s=10.0,
            droppable=True,
            **_READS,
        ),
    )
