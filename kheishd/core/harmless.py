"""Text for a terminal or a log: what comes from a file's name, a provider or a backup may act on both."""

import re
from typing import Final

# What a terminal or a layout acts on, besides tab and newline: C0, DEL, C1, line separators, and the marks
# that reorder text.
_ACTING: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """``text`` with escapes in the place of what would act: a newline stays."""
    return _ACTING.sub(_escape, text)


def one_line(text: str) -> str:
    """``text`` made harmless on one line: a newline is an escape, too."""
    return harmless(text).replace("\n", "\\n")


def harmless_json(document: str) -> str:
    """A JSON document with escapes that mean the same."""
    return _ACTING.sub(lambda found: f"\\u{ord(found.group()):04x}", document)


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
