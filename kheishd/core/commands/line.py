"""A command line, read twice: by the lexer and by a grammar of bash. If they differ, it is not understood.

The lexer (``lexer.py``) knows the value of each word and understands little. The grammar, tree-sitter's,
knows the whole language, and finds the commands inside loops, substitutions and here-documents of a line that
the lexer does not understand: a deny or an ask matches those, too. Pure.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import dropwhile, islice
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
MAX_NESTED_TEXTS: Final = 3
_PIECE: Final = re.compile(r"[^;&|\n(){}`]+")
_REDIRECTION: Final = re.compile(r"\d*(?:&>>?|[<>]&|>>|>\||<>|[<>](?!\())[ \t]*[^\s;&|()<>]+")
_INTRODUCTIONS: Final = frozenset("if then elif else while until do time coproc !".split())
_ASSIGNMENT: Final = re.compile(r"\w+\+?=")
_BEFORE_WORDS: Final = frozenset(
    ("variable_assignment", "file_redirect", "herestring_redirect", "heredoc_redirect")
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_QUOTES: Final = re.compile(r"\$'((?:[^'\\]|\\.)*)'|\$(?=\")|\\\n|['\"\\]", re.DOTALL)
_ANSI_ESCAPE: Final = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|[uU]([0-9A-Fa-f]{1,8})|(.))", re.DOTALL
)
_LETTERS: Final = str.maketrans("abeEfnrtv", "\a\b\x1b\x1b\f\n\r\t\v")
MAX_CODE_POINT: Final = 0x10FFFF
_BACKTICKS: Final = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)
_ESCAPED_BACKTICK: Final = re.compile(r"\\([`\\$])")
_EXPANSION: Final = re.compile(r"\$(?:\w+|[@*#?!$-]|\{[^{}]*\}|\([^()]*\))|`[^`]*`")

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
    # In single quotes, a backslash does not join two lines: both texts are searched.
    for text in dict.fromkeys((line, _ESCAPED.sub(lambda match: "" if match[1] == "\n" else match[0], line))):
        yield from _find_in_text(text, MAX_NESTED_TEXTS)


def _find_in_text(text: str, depth: int) -> Iterator[SimpleCommand]:
    if len(text) > MAX_GRAMMAR_CHARACTERS or text.count("|") > 256 or text.count("<<") > 16:
        # The grammar would take too long.
        yield from _find_between_operators(text)
        return
    content = text.encode()
    root = _parser().parse(content).root_node
    if root.has_error:
        yield from _find_between_operators(text)
    for node in _walk(root):
        source = content[node.start_byte : node.end_byte].decode(errors="replace")
        if node.type in ("command", "declaration_command", "unset_command", "test_command"):
            words = [child for child in node.children if child.type not in _BEFORE_WORDS]
            parent = node.parent
            if parent is not None and parent.type == "redirected_statement":
                # The grammar takes the words after a redirection for more of its targets.
                for child in parent.children:
                    if child.type in ("file_redirect", "heredoc_redirect"):
                        targets = [target for target in child.children if target.type in _LEAVES]
                        words += targets[child.type == "file_redirect" :]
            texts = [content[word.start_byte : word.end_byte].decode(errors="replace") for word in words]
            texts = [text for text in texts if text]
            yield _command_of([_unquote(text) for text in texts], texts)
            # An expansion may be empty. One at the end changes nothing that a pattern begins with.
            rest = [
                text
                for text in (_EXPANSION.sub(lambda match: " " * ("IFS" in match[0]), text) for text in texts)
                if _unquote(text)
            ]
            if rest != texts[: len(rest)]:
                yield _command_of([_unquote(text) for text in rest], rest)
        elif depth and "`" in source and (node.type == "heredoc_body" or not node.children):
            # The grammar does not read what stands between backticks there.
            if node.type not in ("raw_string", "comment"):
                for match in _BACKTICKS.finditer(source):
                    yield from _find_in_text(_ESCAPED_BACKTICK.sub(r"\1", match[1]), depth - 1)
        elif depth and node.type == "command_substitution" and source.startswith("`") and "\\`" in source:
            yield from _find_in_text(_ESCAPED_BACKTICK.sub(r"\1", source[1:-1]), depth - 1)


def _find_between_operators(text: str) -> Iterator[SimpleCommand]:
    """Yield what stands between two operators, without redirections, introductions and assignments."""
    for match in islice(_PIECE.finditer(_REDIRECTION.sub(" ", text)), MAX_PIECES):
        texts = _unquote(match[0]).split()[:MAX_PIECE_WORDS]
        words = dropwhile(lambda text: text in _INTRODUCTIONS or _ASSIGNMENT.match(text), texts)
        if texts := list(words):
            yield _command_of(texts, texts)


def _command_of(values: list[str], written: list[str]) -> SimpleCommand:
    return SimpleCommand(
        (), tuple(Word(value, 0, 0, is_plain=False) for value in values), written=" ".join(written)
    )


def _unquote(text: str) -> str:
    """Return a text without quotes and backslashes, and with the characters that ``$'…'`` stands for."""
    return _QUOTES.sub(lambda match: _ANSI_ESCAPE.sub(_unescape, match[1] or ""), text)


def _unescape(match: re.Match[str]) -> str:
    octal, code = match[1], match[2] or match[3]
    if octal or code:
        number = int(octal, 8) & 0xFF if octal else int(code, 16)
        return chr(number) if number <= MAX_CODE_POINT and not 0xD800 <= number < 0xE000 else ""
    return match[4].translate(_LETTERS)
