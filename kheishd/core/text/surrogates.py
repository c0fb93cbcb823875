"""Halves of surrogate pairs: JSON escapes can hold one half of a character, and UTF-8 cannot."""

LAST_HIGH = "\udbff"
FIRST_HIGH = "\ud800"


def join_surrogates(text: str) -> str:
    """Return a text with each pair of halves joined, and each single half replaced by U+FFFD."""
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def split_first_half(text: str) -> tuple[str, str]:
    """Split a text before a first half at its end, whose second half may follow in the next text."""
    if FIRST_HIGH <= text[-1:] <= LAST_HIGH:
        return text[:-1], text[-1]
    return text, ""
