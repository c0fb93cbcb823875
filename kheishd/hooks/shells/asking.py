"""Whether what a program wrote last is a question: then it waits for somebody to type, and nobody can."""

import re
from typing import Final

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]")

# What asks, even where the line was ended.
_ASKS: Final = re.compile(
    r"[(\[]\s*(y|yes|n|no)\s*(/[^)\]]{0,30})?[)\]]\W*$"
    r"|\b(password|passphrase|username|login)\b[^\n]{0,60}:\s*$"
    r"|\bpress (enter|return|any key)\b|\b(continue|proceed|overwrite|are you sure)\b[^\n]{0,60}\?\s*$",
    re.IGNORECASE,
)

# How a line ends that waits for the rest of it.
_WAITS: Final = re.compile(r"[?:>$#%»\]]\s*$")


def looks_like_a_question(tail: str) -> bool:
    """Whether the end of some output looks as if it waited for an answer."""
    text = _ESCAPES.sub("", tail).replace("\r", "\n")
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    if _ASKS.search(last):
        return True
    return not text.endswith("\n") and _WAITS.search(last) is not None
