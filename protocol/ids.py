"""Identifiers: ``<prefix>_<26 characters>``, in the order of their creation.

The 26 characters are 16 bytes in base32 with the digits in sort order (RFC 4648 "base32hex"): 6 bytes of Unix
milliseconds, 10 bytes of randomness. Time and randomness are arguments, because nothing in this package reads
a clock.
"""

from functools import lru_cache
from typing import Annotated, Any, Final

from msgspec import Meta

from protocol.lazy import lazy_pattern

# The lookahead, as "$" alone also matches before a newline at the end.
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$(?!\n)"

ID_SHAPE = "1-128 characters of A-Z a-z 0-9 . _ : -"
"""The pattern in words."""

ID_SHAPED = lazy_pattern(r"[a-z]{3}_[0-9A-V]{26}")
"""An id that the daemon made."""

SHAPES: dict[str, str] = {}
"""The patterns of constrained strings, in words."""


def shaped(pattern: str, words: str, **limits: Any) -> Meta:
    """Return the constraint of a string, whose pattern the errors of decoders name in words."""
    SHAPES[pattern] = words
    return Meta(pattern=pattern, **{"description": words, **limits})


def explain_shape(message: str) -> str:
    """Return a decoder's error with words in place of the pattern of a constrained string."""
    for pattern, words in SHAPES.items():
        message = message.replace(f"`str` matching regex {pattern!r}", words)
    return message


IDENTITY: Final = {"identity": True}
"""Marks a type whose texts are names, patterns or addresses; one with a secret in it is refused."""

PLAIN_TEXT: Final = {"identity": False}
"""Marks a short type whose texts are no identities: in them, secrets are redacted."""

Id = Annotated[str, shaped(ID_PATTERN, ID_SHAPE)]
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
GOAL = "gol"
APPROVAL = "apr"
QUESTION = "qst"
INDOUBT = "dbt"
CHECKPOINT = "chk"
GRANT = "grt"
STEER = "str"
TASK = "tsk"
OUTPUT = "out"
ARTIFACT = "art"
PERSONA = "per"
MESSAGE = "msg"
HOOK_FAILURE = "hkf"
CRON = "crn"
EVENT = "evt"
TRIGGER = "trg"
EVENT_WAIT = "evw"


# Two characters at a time. The standard library's encoder, made for long texts, takes twice as long, and four
# ids are made for every input.
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]


def make_id(prefix: str, at_ms: int, randomness: bytes) -> str:
    """Return an id that sorts after every id of the same prefix from an earlier millisecond.

    Shape:  ``prefix``, an underscore, 26 characters of 0-9 A-V: 128 bits, and two zeros.
    Errors: ValueError unless ``randomness`` is exactly 10 bytes; OverflowError for a time beyond six bytes.
    """
    if len(randomness) != 10:
        raise ValueError("an id takes exactly 10 bytes of randomness")
    middle = (at_ms & 0xFF) << 32 | int.from_bytes(randomness[:4], "big")
    last = int.from_bytes(randomness[4:9], "big")
    return f"{prefix}_{_encode_time(at_ms >> 8)}{_encode(middle)}{_encode(last)}{_PAIRS[randomness[9] << 2]}"


@lru_cache(maxsize=2)
def _encode_time(bits: int) -> str:
    """Return the upper five bytes of a time, which stay the same for a quarter of a second."""
    if bits.bit_length() > 40 or bits < 0:
        raise OverflowError("an id has six bytes for the time")
    return _encode(bits)


def _encode(bits: int) -> str:
    """Return the eight characters of five bytes."""
    pairs = _PAIRS
    return f"{pairs[bits >> 30]}{pairs[bits >> 20 & 1023]}{pairs[bits >> 10 & 1023]}{pairs[bits & 1023]}"
