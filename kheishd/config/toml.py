"""Line numbers of the keys in a TOML text, so that an error about a value can name its line.

``tomllib`` reports lines for syntax errors only. This scanner walks a text that ``tomllib`` has accepted, so
it does not validate: it finds keys and skips values.
"""

from typing import Final

KeyPath = tuple[str | int, ...]
"""A path such as ``("routes", "local", "driver")``; the elements of an array are numbered from 0."""

_BARE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_BLANK: Final = " \t"
_SPACE: Final = " \t\r\n"


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of every key, table and array element of a valid TOML text."""
    scanner = _Scanner(text)
    scanner.scan_document()
    return scanner.lines


def find_line(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """Return the line of a path, or of the nearest table around it that the text contains."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


class _Scanner:
    """A scanner that passes over the text once; ``position`` only increases."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: dict[KeyPath, int] = {}
        self._arrays: dict[KeyPath, int] = {}
        self._counted = 0
        self._line = 1

    def scan_document(self) -> None:
        """Scan every header and every pair, to the end."""
        table: KeyPath = ()
        while self._skip(_SPACE):
            if self.text[self.position] == "[":
                table = self._scan_header()
            else:
                self._scan_pair(table)

    def _scan_header(self) -> KeyPath:
        double = self.text.startswith("[[", self.position)
        line = self._current_line()
        self.position += 2 if double else 1
        self._skip(_BLANK)
        path = self._resolve(self._scan_key(), last=not double)
        self.position = self.text.index("]", self.position) + (2 if double else 1)
        if double:
            number = self._arrays[path] = self._arrays.get(path, -1) + 1
            self.lines.setdefault(path, line)
            path = (*path, number)
        self.lines.setdefault(path, line)
        return path

    def _resolve(self, key: KeyPath, *, last: bool) -> KeyPath:
        """Return the path of a header: ``[a.b]`` after ``[[a]]`` means b in the newest element of a."""
        path: KeyPath = ()
        for index, part in enumerate(key):
            path = (*path, part)
            if path in self._arrays and (last or index < len(key) - 1):
                path = (*path, self._arrays[path])
        return path

    def _scan_pair(self, table: KeyPath) -> None:
        line = self._current_line()
        path = (*table, *self._scan_key())
        for length in range(len(table) + 1, len(path) + 1):
            self.lines.setdefault(path[:length], line)
        self.position = self.text.index("=", self.position) + 1
        self._skip(_BLANK)
        self._scan_value(path)

    def _scan_key(self) -> KeyPath:
        import tomllib

        parts: list[str | int] = []
        while True:
            self._skip(_BLANK)
            start = self.position
            if self.text[start] in "\"'":
                self._skip_string()
                # tomllib resolves the escapes.
                parts += tomllib.loads(f"{self.text[start : self.position]} = 0")
            else:
                while self.position < len(self.text) and self.text[self.position] in _BARE:
                    self.position += 1
                parts.append(self.text[start : self.position])
            self._skip(_BLANK)
            if self.position >= len(self.text) or self.text[self.position] != ".":
                return tuple(parts)
            self.position += 1

    def _scan_value(self, path: KeyPath) -> None:
        match self.text[self.position]:
            case '"' | "'":
                self._skip_string()
            case "[":
                self._scan_array(path)
            case "{":
                self._scan_inline_table(path)
            case _:
                while self.position < len(self.text) and self.text[self.position] not in ",]}#\n":
                    self.position += 1

    def _skip_string(self) -> None:
        quote = self.text[self.position]
        delimiter = quote * 3 if self.text.startswith(quote * 3, self.position) else quote
        self.position += len(delimiter)
        while not self.text.startswith(delimiter, self.position):
            self.position += 2 if quote == '"' and self.text[self.position] == "\\" else 1
        self.position += len(delimiter)
        # Up to two quotes may precede the closing three: they belong to the value.
        while len(delimiter) == 3 and self.text.startswith(quote, self.position):
            self.position += 1

    def _scan_array(self, path: KeyPath) -> None:
        self.position += 1
        number = 0
        while self._skip(_SPACE) and self.text[self.position] != "]":
            if self.text[self.position] == ",":
                self.position += 1
                continue
            self.lines.setdefault((*path, number), self._current_line())
            self._scan_value((*path, number))
            number += 1
        self.position += 1

    def _scan_inline_table(self, path: KeyPath) -> None:
        self.position += 1
        while self._skip(_SPACE) and self.text[self.position] != "}":
            if self.text[self.position] == ",":
                self.position += 1
            else:
                self._scan_pair(path)
        self.position += 1

    def _skip(self, blank: str) -> bool:
        """Skip blanks and comments; return whether anything follows."""
        while self.position < len(self.text):
            if self.text[self.position] == "#":
                end = self.text.find("\n", self.position)
                self.position = len(self.text) if end < 0 else end
            elif self.text[self.position] in blank:
                self.position += 1
            else:
                return True
        return False

    def _current_line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line
