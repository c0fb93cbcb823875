"""Text made safe to show and short enough to keep: the escaping and the truncation of daemon and client.

Text from models, tools, file names and senders may hold characters that move a terminal's cursor, reorder
text or show nothing. Such a character is *active*; tabs and newlines are not. Whatever reaches a terminal or
a log goes through one of the functions of the first part. The second part truncates by encoded bytes and
never inside a character. Standard library only, because every start of the client imports this module.
"""

import re
from typing import Final

from protocol.lazy import lazy_pattern

# C0, DEL and C1 controls, separators that some programs take for newlines, marks that reorder text, surrogate
# halves (they cannot be encoded), and invisible characters: a person who approves a command must see all of
# it. The joiners U+200C and U+200D are allowed, because whole scripts and many emoji need them.
_BEYOND_ASCII: Final = (
    r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff"
    r"\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\U000e0000-\U000e007f"
)
_ACTIVE: Final = lazy_pattern(rf"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}]")
_ACTIVE_IN_JSON: Final = lazy_pattern(f"[{_BEYOND_ASCII}]")

# Characters that a person cannot see, or takes for a blank. Joiners and variation selectors change the letter
# or emoji before them, and show nothing behind ASCII.
_UNSEEN: Final = (
    rf"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}\xa0\u1680\u2000-\u200a\u202f\u205f"
    r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]"
)
_CONTROL_NAMES: Final = {
    "\0": "NULL",
    "\a": "BELL",
    "\b": "BACKSPACE",
    "\r": "CARRIAGE RETURN",
    "\x1b": "ESCAPE",
    "\x7f": "DELETE",
}

# Escaping.


def escape(text: str) -> str:
    r"""Replace active characters by backslash escapes such as ``\x1b``, for logs and messages."""
    return _ACTIVE.sub(_backslash, text)


def escape_line(text: str) -> str:
    r"""Escape text and write it on one line: a newline becomes ``\n``."""
    return escape(text).replace("\n", "\\n")


def escape_json(document: str) -> str:
    """Replace active characters in a JSON document by Unicode escapes, which mean the same."""
    return _ACTIVE_IN_JSON.sub(_json_escape, document)


def sanitize(text: str) -> str:
    """Replace active characters by visible symbols, for a terminal; carriage returns are removed.

    Pieces of a text can be sanitized one by one: joined, they are the text sanitized.
    """
    return _ACTIVE.sub(_symbol, text)


def reveal(text: str, *, prose: bool = False) -> str:
    """Replace characters that a person would not see, or takes for others, by their names.

    For text that a person is to approve: nothing in it may look like less than it is, or like something else.
    Newlines stay. ``prose``: text for people, such as a diff, may have dashes and quotation marks.
    """
    if text.isascii() and text.isprintable():
        return text
    # Imported and compiled here, because few starts of the client show an approval; ``re`` keeps it.
    from protocol.lookalikes import name_lookalikes

    return name_lookalikes(re.sub(_UNSEEN, _name, text), prose=prose)


def reveal_line(text: str) -> str:
    """Reveal text on one line: a newline is replaced by its name, too."""
    return reveal(text).replace("\n", "⟨LINE FEED⟩")


def fold_text(text: str) -> str:
    """Return a text as names and titles are compared: without case, and with single blanks."""
    return " ".join(text.split()).casefold()


def one_line(text: str) -> str:
    """Sanitize text and collapse its white space, newlines included, to single blanks."""
    return " ".join(sanitize(text).split())


def _backslash(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    # Needed for hidden characters only, and no start waits for the import.
    import json

    # JSON allows DEL unescaped, so json.dumps leaves it; a character above U+FFFF takes two escapes.
    return r"\u007f" if match.group() == "\x7f" else json.dumps(match.group())[1:-1]


def _name(match: re.Match[str]) -> str:
    # Only needed for hidden characters, and every start of the client would import it.
    import unicodedata

    character = match.group()
    code = f"U+{ord(character):04X}"
    return f"⟨{_CONTROL_NAMES.get(character) or unicodedata.name(character, code)}⟩"


def _symbol(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == 0x0D:
        return ""
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


# Truncation.

ELLIPSIS: Final = "…"


def truncate(text: str, max_bytes: int, ellipsis: str = ELLIPSIS) -> str:
    """Return the longest prefix of text that has at most ``max_bytes`` in UTF-8, the ellipsis included.

    A text that fits is returned unchanged. The ellipsis distinguishes a truncated text from a complete one.
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return text
    room = max(max_bytes - len(ellipsis.encode()), 0)
    return encoded[:room].decode(errors="ignore") + ellipsis


def json_length(text: str) -> int:
    """Return the number of bytes of text as a JSON string, without its quotes."""
    import json

    return len(json.dumps(text, ensure_ascii=False).encode(errors="replace")) - 2


def truncate_json(text: str, max_json_bytes: int) -> str:
    """Return the longest prefix of text whose JSON string has at most ``max_json_bytes``."""
    if json_length(text) <= max_json_bytes:
        return text
    fitting, exceeding = 0, len(text)
    while exceeding - fitting > 1:
        middle = (fitting + exceeding) // 2
        if json_length(text[:middle]) <= max_json_bytes:
            fitting = middle
        else:
            exceeding = middle
    return text[:fitting]


def truncate_json_start(text: str, max_json_bytes: int) -> str:
    """Return the longest suffix of text whose JSON string has at most ``max_json_bytes``."""
    return truncate_json(text[::-1], max_json_bytes)[::-1]
