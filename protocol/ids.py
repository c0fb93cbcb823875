"""Identifiers: ``<prefix>_<26 characters>``, in the order of their creation.

The 26 characters are 16 bytes in base32 with the digits in sort order (RFC 4648 "base32hex"): 6 bytes of Unix
milliseconds, 10 bytes of randomness. Time and randomness are arguments, because nothing in this package reads
a clock.
"""

from typing import Annotated

from msgspec import Meta

# The lookahead, as "$" alone also matches before a newline at the end.
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$(?!\n)"

ID_SHAPE = "1-128 characters of A-Z a-z 0-9 . _ : -"
"""The pattern in words."""

Id = Annotated[str, Meta(pattern=ID_PATTERN, description=ID_SHAPE)]
"""An identifier as a caller may choose it or send it."""

Cursor = Annotated[int, Meta(ge=0, description="A position in the journal; 0 is before the first event.")]

Epoch = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="The id of a store's line of history. A restored backup begins a new one.",
    ),
]
"""A position in the journal: one increasing number for the whole daemon."""

SESSION = "ses"
RUN = "run"
INPUT = "inp"
ITEM = "itm"
TOKEN = "tok"
SUBSCRIPTION = "sub"
APPROVAL = "apr"
QUESTION = "qst"
INDOUBT = "dbt"
GRANT = "grt"
STEER = "str"
TASK = "tsk"
OUTPUT = "out"
ARTIFACT = "art"
MESSAGE = "msg"


# Two characters at a time: 26 characters are 130 bits, the 128 of an id and two zeros. The standard
# library's encoder, made for long texts, takes twice as long, and three ids are made for every input.
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_SHIFTS = tuple(range(120, -1, -10))


def make_id(prefix: str, at_ms: int, randomness: bytes) -> str:
    """Return an id that sorts after every id of the same prefix from an earlier millisecond.

    Shape:  ``prefix``, an underscore, 26 characters of 0-9 A-V.
    Errors: ValueError unless ``randomness`` is exactly 10 bytes.
    """
    if len(randomness) != 10:
        raise ValueError("an id takes exactly 10 bytes of randomness")
    number = int.from_bytes(at_ms.to_bytes(6, "big") + randomness, "big") << 2
    return f"{prefix}_{''.join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])}"
