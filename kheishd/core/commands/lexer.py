"""The lexer of command lines: it reads the words of simple commands as bash does, or rejects the line.

It reads a part of bash's language in which no word depends on the state of the shell or of the file system,
except for patterns of file names that cannot become options. Everything else is not understood: expansions,
redirections to files, keywords, functions, here-documents. Pure.
"""

import re
import unicodedata
from typing import Final

from protocol.structs import Value

MAX_LINE_CHARACTERS: Final = 8_192
MAX_COMMANDS: Final = 64
"""A line beyond these limits is not understood. A person does not write one, and reading it takes long."""

_OPERATOR: Final = re.compile(r"&&|\|\||\|&|[;&|()\n]")
_REDIRECTION: Final = re.compile(r"(?P<fd>\d{1,3})?(?:&>>?|[<>]&|>>|>\||<>|<<|[<>])")
_DUPLICATED: Final = re.compile(r"(\d|-)(?=[\s;&|()<>]|$)")
_NOWHERE: Final = re.compile(r"/dev/null(?=[\s;&|()<>]|$)")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?=|\[)")
# Characters that stand for themselves in a word without quotes, besides letters and digits of any script.
_PLAIN: Final = frozenset("_-+=,./:@%^]#~")
_BRACKET: Final = re.compile(r"\[(?=[ \t\n]|$)")
_GLOB: Final = frozenset("*?[")
_DOUBLE_QUOTED_ESCAPES: Final = frozenset('$`"\\')

KEYWORDS: Final = frozenset(
    "if then elif else fi for while until do done case esac select function time coproc in [[ ]] }".split()
)
"""Words that are not commands where a command is expected; ``{`` and ``!`` are read."""


class NotUnderstood(Exception):
    """A part of a line that is not understood, with its column, from 1."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = position + 1


class Word(Value, frozen=True):
    """A word: its value after quote removal, and its part of the line.

    ``is_plain``: no part of it is quoted. ``is_glob``: it is a pattern, which files of any name may replace.
    """

    value: str
    start: int
    end: int
    is_plain: bool
    is_glob: bool = False


class SimpleCommand(Value, frozen=True):
    """A simple command: assignments ``NAME=value`` in front of its words.

    ``written`` is its text if it was found in a line that is not understood, so that its words have no place.
    """

    assignments: tuple[Word, ...]
    words: tuple[Word, ...]
    written: str = ""


def read_commands(line: str) -> list[SimpleCommand]:
    """Return the simple commands of a line, in order. Errors: NotUnderstood."""
    require_visible(line)
    return _Lexer(line).read()


def require_visible(line: str) -> None:
    """Reject a line that is too long, or does not look like its content. Errors: NotUnderstood."""
    if len(line) > MAX_LINE_CHARACTERS:
        raise NotUnderstood(f"the line has more than {MAX_LINE_CHARACTERS} characters", MAX_LINE_CHARACTERS)
    if line.isascii() and line.replace("\n", " ").replace("\t", " ").isprintable():
        return
    for position, character in enumerate(line):
        if character in " \n\t":
            continue
        # Letters, digits, symbols and punctuation; no spaces, fillers, marks, controls and unassigned ones.
        if unicodedata.category(character)[0] not in "LNSP" or character in "\u115f\u1160\u3164\uffa0\u2800":
            raise NotUnderstood(f"the character U+{ord(character):04X}", position)


class _Lexer:
    def __init__(self, line: str) -> None:
        self.line = line
        self.position = 0
        self.commands: list[SimpleCommand] = []
        self.assignments: list[Word] = []
        self.words: list[Word] = []
        self.redirects = False
        # After a group, only an operator or a redirection may follow.
        self.after_group = False
        self.groups: list[str] = []

    def read(self) -> list[SimpleCommand]:
        line = self.line
        while self.position < len(line):
            character = line[self.position]
            if character in " \t":
                self.position += 1
            elif character == "#":
                end = line.find("\n", self.position)
                self.position = len(line) if end < 0 else end
            elif match := _REDIRECTION.match(line, self.position):
                self.read_redirection(match)
            elif match := _OPERATOR.match(line, self.position):
                self.read_operator(match[0])
            else:
                self.read_word()
        self._end_command()
        if self.groups:
            raise NotUnderstood("a group without an end", len(line))
        return self.commands

    def _end_command(self) -> None:
        if self.words or self.assignments:
            self.commands.append(SimpleCommand(tuple(self.assignments), tuple(self.words)))
            self.assignments, self.words = [], []
            if len(self.commands) > MAX_COMMANDS:
                raise NotUnderstood(f"more than {MAX_COMMANDS} commands", self.position)
        elif self.redirects and not self.after_group:
            raise NotUnderstood("a redirection without a command", self.position)
        self.redirects = self.after_group = False

    def read_operator(self, operator: str) -> None:
        if operator == ";" and self.line[self.position + 1 : self.position + 2] in (";", "&"):
            raise NotUnderstood("an operator of 'case'", self.position)
        if operator == "(":
            if self.words or self.assignments or self.after_group or self.redirects:
                raise NotUnderstood("a function or an array", self.position)
            self.groups.append(")")
        elif operator == ")":
            self._end_command()
            self._end_group(")")
        else:
            self._end_command()
        self.position += len(operator)

    def _end_group(self, closing: str) -> None:
        if not self.groups or self.groups.pop() != closing:
            raise NotUnderstood(f"{closing!r} without a beginning", self.position)
        self.after_group = True

    def read_redirection(self, match: re.Match[str]) -> None:
        """Skip a redirection that changes no file: to /dev/null, or to another descriptor."""
        operator = match[0].lstrip("0123456789")
        if operator == "<<":
            raise NotUnderstood("a here-document", self.position)
        rest = match.end()
        if operator in ("<&", ">&"):
            target = _DUPLICATED.match(self.line, rest)
        else:
            while rest < len(self.line) and self.line[rest] in " \t":
                rest += 1
            target = _NOWHERE.match(self.line, rest)
        if target is None:
            raise NotUnderstood("a redirection to a file", self.position)
        self.redirects = True
        self.position = target.end()

    def read_word(self) -> None:
        if self.after_group:
            raise NotUnderstood("a word after a group", self.position)
        word = self.scan_word()
        raw = self.line[word.start : word.end]
        is_first = not self.words
        if is_first and not self.assignments and word.is_plain and not self.redirects:
            if raw == "!":
                return
            if raw == "{":
                self.groups.append("}")
                return
            if raw == "}":
                self._end_group("}")
                return
        if is_first and word.is_plain and raw in (*KEYWORDS, "!", "{"):
            raise NotUnderstood(f"the keyword {raw!r}", word.start)
        if raw in ("{", "}", "!"):
            if raw != "!":
                raise NotUnderstood("a brace", word.start)
        if is_first and (match := _ASSIGNMENT.match(raw)):
            if match[2] != "=":
                raise NotUnderstood("an assignment to an element, or to the end of a variable", word.start)
            self.assignments.append(word)
            return
        if is_first and (word.is_glob or word.value.startswith("%")):
            raise NotUnderstood("a command whose name is a pattern or a job", word.start)
        self.words.append(word)

    def scan_word(self) -> Word:
        line, start = self.line, self.position
        parts: list[str] = []
        is_plain, glob_at = True, -1
        position = start
        while position < len(line):
            character = line[position]
            if character in " \t\n;&|()<>":
                break
            if character == "'":
                end = line.find("'", position + 1)
                if end < 0:
                    raise NotUnderstood("a quote without an end", position)
                parts.append(line[position + 1 : end])
                position, is_plain = end + 1, False
            elif character == '"':
                position = self.scan_double_quotes(position, parts)
                is_plain = False
            elif character == "\\":
                if position + 1 >= len(line) or line[position + 1] == "\n":
                    raise NotUnderstood("a line that continues", position)
                parts.append(line[position + 1])
                position, is_plain = position + 2, False
            else:
                _require_literal(line, position, start)
                # The command "[" is a whole word.
                is_bracket = character == "[" and position == start and _BRACKET.match(line, position)
                if character in _GLOB and glob_at < 0 and not is_bracket:
                    glob_at = len("".join(parts))
                parts.append(character)
                position += 1
        value = "".join(parts)
        if glob_at == 0 or (glob_at > 0 and value.startswith("-")):
            raise NotUnderstood("a pattern that may become an option", start)
        if line[position : position + 1] in ("<", ">") and value.isdigit() and is_plain:
            raise NotUnderstood("a number before a redirection", start)
        self.position = position
        return Word(value, start, position, is_plain, glob_at >= 0)

    def scan_double_quotes(self, start: int, parts: list[str]) -> int:
        """Append the content of double quotes; return the position after them. Errors: NotUnderstood."""
        line, position = self.line, start + 1
        while position < len(line):
            character = line[position]
            if character == '"':
                return position + 1
            if character in "$`":
                raise NotUnderstood("an expansion", position)
            if character == "\\":
                following = line[position + 1 : position + 2]
                if following == "\n":
                    raise NotUnderstood("a line that continues", position)
                parts.append(following if following in _DOUBLE_QUOTED_ESCAPES else f"\\{following}")
                position += 2
                continue
            parts.append(character)
            position += 1
        raise NotUnderstood("a quote without an end", start)


def _require_literal(line: str, position: int, start: int) -> None:
    """Reject a character without quotes that is not itself, or not for sure. Errors: NotUnderstood."""
    character = line[position]
    if character in "$`":
        raise NotUnderstood("an expansion", position)
    if character == "~" and (position == start or line[position - 1] in "=:"):
        raise NotUnderstood("the home directory of a user", position)
    if character in "{}":
        pair = line[position : position + 2] == "{}" or line[position - 1 : position + 1] == "{}"
        alone = position == start and line[position + 1 : position + 2] in ("", " ", "\t", "\n", ";", ")")
        if not pair and not alone:
            raise NotUnderstood("a brace", position)
        return
    if character == "!":
        if position != start or line[position + 1 : position + 2] not in ("", " ", "\t"):
            raise NotUnderstood("a reference to the history", position)
        return
    if not (character.isalnum() or character in _PLAIN or character in _GLOB or ord(character) > 127):
        raise NotUnderstood(f"the character {character!r}", position)
