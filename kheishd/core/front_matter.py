"""Front matter: the YAML between two ``---`` lines at the beginning of a Markdown file, with line numbers.

YAML's anchors, aliases and tags are rejected: the files do not need them, and a few lines of aliases expand
to gigabytes. Pure.
"""

import re
from contextlib import suppress
from typing import Any, Final

from kheishd.config.toml import KeyPath
from kheishd.config.validation import format_path

_QUOTE: Final = "put a value that begins with '*', '&' or '!' in quotes"
_FENCE: Final = re.compile(r"^---[ \t]*$", re.MULTILINE)
_MARKS: Final = re.compile(r"[&*!]")

# What begins a level of nesting, in quotes or not. Libyaml's parser calls itself for each level; 60,000
# levels overflow the stack, and 4,096 take less than 2 MiB of it.
_OPENINGS: Final = re.compile(r"[\[{]|[-?](?=\s)")
MAX_OPENINGS: Final = 4_096

# Python's parser explains errors, and takes 25 ms for a text of this length.
MAX_EXPLAINED_CHARACTERS: Final = 1_024


class FrontMatterError(Exception):
    """A file is invalid; has every problem with its line, counted from 1."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {line}: {message}" for line, message in problems))
        self.problems = sorted(problems)


def split_front_matter(text: str) -> tuple[str | None, str]:
    """Split a file into front matter, which begins on line 2, and the rest.

    Errors: FrontMatterError if the front matter is not closed.
    """
    opening = _FENCE.match(text)
    if opening is None:
        return None, text.strip()
    closing = _FENCE.search(text, opening.end())
    if closing is None:
        raise FrontMatterError([(1, "the front matter has no closing '---' line")])
    return text[opening.end() + 1 : closing.start()], text[closing.end() :].strip()


def load_yaml(
    text: str, *, first_line: int = 2, all_text: bool = False
) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the mapping in a YAML text, and the line of each of its keys and list elements.

    Args:   ``first_line`` is the line of the file at which the text begins. ``all_text``: every value stays a
            text, so that a version such as 1.10 is not a number.
    Errors: FrontMatterError if the text is not YAML, not a mapping, or uses a rejected feature.
    """
    # Imported here: a home without such files does not pay for it.
    import yaml

    if len(text) > MAX_OPENINGS and sum(1 for _ in _OPENINGS.finditer(text)) > MAX_OPENINGS:
        raise FrontMatterError([(first_line, "lists or mappings are nested too deeply")])
    scanner = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        for token in yaml.scan(text, scanner) if _MARKS.search(text) else ():
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
                line = _line_of(token.start_mark, first_line)
                raise FrontMatterError([(line, f"anchors, aliases and tags are not allowed; {_QUOTE}")])
        loader, node = _compose(text, all_text=all_text)
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise FrontMatterError([(first_line, "the front matter is not a list of 'key: value' lines")])
        lines: dict[KeyPath, int] = {}
        _collect_lines(node, (), lines, first_line)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        message = " ".join(part for part in (error.context, error.problem) if part)
        # A bracket or quote that is never closed is detected at the end, but the problem is its beginning.
        at_end = "end of stream" in (error.problem or "")
        message += f"; {_QUOTE}" if "alias" in message else ""
        mark = error.context_mark if at_end else error.problem_mark or error.context_mark
        raise FrontMatterError([(_line_of(mark, first_line), message)]) from None
    except RecursionError:
        raise FrontMatterError([(first_line, "lists or mappings are nested too deeply")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise FrontMatterError([(first_line, str(error).splitlines()[0])]) from None


def _compose(text: str, *, all_text: bool) -> tuple[Any, Any]:
    """Return a loader and its node: libyaml's is fast, Python's explains the errors of short texts."""
    import yaml

    slow, fast = (yaml.BaseLoader, "CBaseLoader") if all_text else (yaml.SafeLoader, "CSafeLoader")
    if hasattr(yaml, fast):
        loader = getattr(yaml, fast)(text)
        with suppress(*((yaml.YAMLError, ValueError) if len(text) <= MAX_EXPLAINED_CHARACTERS else ())):
            return loader, loader.get_single_node()
    loader = slow(text)
    return loader, loader.get_single_node()


def _collect_lines(node: Any, path: KeyPath, lines: dict[KeyPath, int], first_line: int) -> None:
    """Collect the lines of all keys and elements in a node. Errors: FrontMatterError for a duplicate key."""
    if node.id == "sequence":
        for number, element in enumerate(node.value):
            lines[*path, number] = _line_of(element.start_mark, first_line)
            _collect_lines(element, (*path, number), lines, first_line)
    elif node.id == "mapping":
        for key, value in node.value:
            line, inner = _line_of(key.start_mark, first_line), (*path, str(key.value))
            if inner in lines:
                message = f"{format_path(inner)}: duplicate key; it is already on line {lines[inner]}"
                raise FrontMatterError([(line, message)])
            lines[inner] = line
            _collect_lines(value, inner, lines, first_line)


def _line_of(mark: Any, first_line: int) -> int:
    """Return the line in the file; YAML counts from 0."""
    return int(mark.line) + first_line if mark is not None else first_line
