"""The encodings that drivers keep beside messages: one prefix for each form, a few forms, and their size."""

from kheishd.core.context.encodings import MAX_PREFIXES, MessageEncodings


def test_a_prefix_is_kept_by_its_form() -> None:
    """A prefix continues where it ended; each form has its own, and the size is that of all pieces."""
    encodings = MessageEncodings()
    assert encodings.size_bytes == 0
    encodings.prefix("a").append(1, b"one")
    encodings.prefix("a").append(2, b"two", b"three")
    encodings.prefix("a").append(1)
    encodings.prefix("b").append(1, b"eins")
    prefix = encodings.prefix("a")
    assert (prefix.count, prefix.parts, prefix.carry) == (4, [b"one", b"two", b"three"], None)
    assert prefix.size_bytes == 11
    assert encodings.size_bytes == 15


def test_the_number_of_forms_is_bounded() -> None:
    """A new form replaces the one that was not used for the longest time."""
    encodings = MessageEncodings()
    for number in range(MAX_PREFIXES):
        encodings.prefix(str(number)).append(1, b"x")
    encodings.prefix("0")
    encodings.prefix("new")
    assert encodings.prefix("0").count == 1
    assert encodings.size_bytes == MAX_PREFIXES - 1
    assert encodings.prefix("1").count == 0
