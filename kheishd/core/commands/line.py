"""A command line, read twice: by the lexer and by a grammar of bash. If they differ, it is not understood.

The lexer (``lexer.py``) knows the value of each word and understands little. The grammar, tree-sitter's,
knows the whole language, and finds the commands inside loops, substitutions and here-documents of a line that
the lexer does not understand: a deny or an ask matches those, too. Pure.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from kheishd.core.commands.lexer import NotUnderstood, SimpleCommand, Word, read_commands
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node, Parser

# Reading a longer line takes more than 10 ms, and much longer if it is hostile.
MAX_GRAMMAR_CHARACTERS: Final = 4_096

MAX_PIECES: Final = 512
MAX_PIECE_WORDS: Final = 64
_PIECE: Final = re.compile(r"[^;&|\n(){}`]+")
_INTRODUCTIONS: Final = frozenset("if then elif else while until do time coproc !".split())
_QUOTES: Final = re.compile("['\"\\\\]")

_LEAVES: Final = frozenset(
    (
        *("word", "number", "string", "raw_string", "concatenation", "variable_assignment", "comment"),
        *("test_command", "declaration_command", "unset_command"),
    )
)
_STRUCTURE: Final = frozenset(
    (
        *("program", "list", "pipeline", "command", "command_name", "negated_command"),
        *("redirected_statement", "file_redirect", "subshell", "compound_statement", "file_descriptor"),
        *("&&", "||", ";", "&", "|", "|&", "\n", "(", ")", "{", "}", "!"),
        *("<", ">", ">>", ">|", "<&", ">&", "&>", "&>>", "<>", "<&-", ">&-"),
    )
)


class CommandLine(Value, frozen=True):
    """The simple commands of a line.

    ``problem`` says what is not understood; ``commands`` are then those that could be found.
    """

    commands: tuple[SimpleCommand, ...]
    problem: str | None = None


@lru_cache(maxsize=64)
def read_line(line: str) -> CommandLine:
    """Read a command line."""
    try:
        commands = read_commands(line)
        if commands:
            require_agreement(line, commands)
    except NotUnderstood as error:
        problem = f"{error.reason} at column {error.column}"
        return CommandLine(tuple(find_commands(line)), f"not understood: {problem}")
    return CommandLine(tuple(commands))


@cache
def _parser() -> Parser:
    # Loading the grammar takes 40 ms, and most daemons judge no command right after their start.
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))


def _parse(line: str) -> tuple[Node, list[int]]:
    """Return the syntax tree of a line, and the position of the character at each byte offset."""
    positions = [position for position, character in enumerate(line) for _ in character.encode()]
    return _parser().parse(line.encode()).root_node, [*positions, len(line)]


def require_agreement(line: str, commands: list[SimpleCommand]) -> None:
    """Require that the grammar finds the same words. Errors: NotUnderstood where it does not."""
    if len(line) > MAX_GRAMMAR_CHARACTERS:
        raise NotUnderstood(f"the line has more than {MAX_GRAMMAR_CHARACTERS} characters", len(line))
    root, positions = _parse(line)
    if root.has_error:
        errors = (node for node in _walk(root) if node.is_error or node.is_missing)
        raise NotUnderstood("the grammar finds an error", positions[next(errors, root).start_byte])
    spans = sorted((positions[node.start_byte], positions[node.end_byte]) for node in _words(root, positions))
    expected: list[tuple[int, int]] = []
    covered = {span[0]: span[1] for span in spans}
    for command in commands:
        words = [*command.assignments, *command.words]
        whole = covered.get(words[0].start)
        if whole is not None and whole == words[-1].end:
            # The grammar has rules of its own for some builtins.
            expected.append((words[0].start, whole))
        else:
            expected += [(word.start, word.end) for word in words]
    for found, read in zip(spans, expected, strict=False):
        if found != read:
            raise NotUnderstood("the grammar reads other words", min(found[0], read[0]))
    if len(spans) != len(expected):
        raise NotUnderstood("the grammar reads other words", len(line))


def _words(root: Node, positions: list[int]) -> Iterator[Node]:
    """Yield the nodes of words, without the targets of redirections. Errors: NotUnderstood."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.type in _LEAVES:
            if node.type != "comment":
                yield node
            continue
        if node.type not in _STRUCTURE:
            raise NotUnderstood(f"the grammar finds {node.type}", positions[node.start_byte])
        children = node.children
        if node.type == "file_redirect":
            # The grammar takes the words after a redirection for more of its targets.
            targets = [child for child in children if child.type in _LEAVES]
            children = [child for child in children if child not in targets[:1]]
        nodes += children


def _walk(root: Node) -> Iterator[Node]:
    nodes = [root]
    while nodes:
        node = nodes.pop()
        yield node
        nodes += reversed(node.children)


def find_commands(line: str) -> Iterator[SimpleCommand]:
    """Yield what looks like a simple command anywhere in a line that is not understood."""
    line = line.encode(errors="replace").decode()
    if len(line) > MAX_GRAMMAR_CHARACTERS or line.count("|") > 256 or line.count("<<") > 16:
        # The grammar would take too long: what stands between two operators is taken for a command.
        for match in islice(_PIECE.finditer(line), MAX_PIECES):
            texts = [text for text in match[0].split()[:MAX_PIECE_WORDS] if text not in _INTRODUCTIONS]
            words = tuple(Word(_QUOTES.sub("", text), *match.span(), is_plain=False) for text in texts)
            if words:
                yield SimpleCommand((), words)
        return
    root, positions = _parse(line)
    for node in _walk(root):
        if node.type in ("command", "declaration_command", "unset_command", "test_command"):
            parts = [
                Word(_QUOTES.sub("", line[start:end]), start, end, is_plain=False)
                for child in node.children
                if (start := positions[child.start_byte]) < (end := positions[child.end_byte])
            ]
            yield SimpleCommand((), tuple(parts))
