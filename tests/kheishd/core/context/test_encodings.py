"""The encodings that drivers keep beside messages: one for each form, a few forms, and their size."""

from msgspec import Struct

from kheishd.core.context.encodings import FORM_BYTES, MAX_FORMS, MessageEncodings


class Sized(Struct):
    """An encoding of a size."""

    size_bytes: int


def test_an_encoding_is_kept_by_its_form() -> None:
    """Each form has its own encoding; one that was taken out is gone until it is kept again."""
    encodings = MessageEncodings()
    assert (encodings.take("a"), encodings.size_bytes) == (None, 0)
    first, second = Sized(11), Sized(4)
    encodings.keep("a", first)
    encodings.keep(("b", 1), second)
    assert encodings.size_bytes == 15 + 2 * FORM_BYTES
    assert encodings.take("a") is first
    assert (encodings.take("a"), encodings.size_bytes) == (None, 4 + FORM_BYTES)
    first.size_bytes = 20
    encodings.keep("a", first)
    assert encodings.size_bytes == 24 + 2 * FORM_BYTES
    encodings.keep("a", second)
    assert encodings.take("a") is second


def test_the_number_of_forms_is_bounded() -> None:
    """A new form replaces the one that was not used for the longest time."""
    encodings = MessageEncodings()
    for number in range(MAX_FORMS):
        encodings.keep(number, Sized(1))
    encodings.keep(0, encodings.take(0))
    encodings.keep("new", Sized(1))
    assert encodings.size_bytes == MAX_FORMS * (1 + FORM_BYTES)
    assert encodings.take(1) is None
    assert encodings.take(0) is not None
