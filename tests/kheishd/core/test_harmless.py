"""What a terminal acts on becomes visible, whatever it came from."""

import json

from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.harmless import harmless, harmless_json, one_line

EVERYTHING = st.text(st.characters(exclude_categories=[]))


def test_what_acts_is_shown_as_an_escape() -> None:
    """And what does not stays as it is."""
    assert harmless("a\x1b[2J\tb\n\x9b2J\u202eü\ud800") == "a\\x1b[2J\tb\n\\x9b2J\\u202eü\\ud800"
    assert one_line("a\nb") == "a\\nb"


@given(EVERYTHING)
def test_nothing_acts(text: str) -> None:
    """No control but tab and newline is left, and the text can be encoded."""
    shown = harmless(text)
    assert all(character in "\t\n" or ord(character) >= 0x20 for character in shown)
    assert not any(0x7F <= ord(character) < 0xA0 for character in shown)
    shown.encode()
    assert "\n" not in one_line(text)


@given(st.text())
def test_a_document_means_the_same(text: str) -> None:
    """JSON has escapes of its own."""
    document = harmless_json(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(document) == {"text": text}
    assert "\x9b" not in document
