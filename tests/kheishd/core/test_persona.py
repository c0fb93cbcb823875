"""Personas: versions, and names from Markdown files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.persona import evolve, name_from_markdown
from protocol.events.persona import PersonaCreated, PersonaDeleted, PersonaUpdated
from protocol.journal.envelope import Envelope
from protocol.limits.persona import MAX_DISPLAY_NAME_BYTES


def test_every_change_is_a_version() -> None:
    """Versions count from 1, and a deleted persona has no record."""
    created = PersonaCreated(persona_id="p", display_name="One", soul_sha256="a", metadata={"k": 1})
    first = evolve(None, Envelope(cursor=5, at_ms=50), created)
    assert first is not None
    assert (first.version, first.created_cursor, first.metadata) == (1, 5, {"k": 1})
    updated = PersonaUpdated(persona_id="p", display_name="Two", soul_sha256="b")
    second = evolve(first, Envelope(cursor=6, at_ms=60), updated)
    assert second is not None
    assert (second.version, second.created_cursor, second.updated_cursor) == (2, 5, 6)
    assert (second.display_name, second.created_at_ms, second.updated_at_ms) == ("Two", 50, 60)
    assert evolve(second, Envelope(cursor=7, at_ms=70), PersonaDeleted(persona_id="p")) is None
    with pytest.raises(AssertionError, match="created before"):
        evolve(None, Envelope(cursor=7, at_ms=70), updated)


@pytest.mark.parametrize(
    ("content", "filename", "name"),
    [
        ("# The critic\n\nBe strict.", "a.md", "The critic"),
        ("Be strict.\n\n## Later ##\n# Last", "a.markdown", "Later"),
        ("```\n# no heading\n```\n\n# Yes", "a.MD", "Yes"),
        ("~~~\n```\n# no heading\n~~~\n# Yes", "a.md", "Yes"),
        ("#no heading\n#\n", "the-critic.md", "the-critic"),
        ("", "dir/critic.v2.md", "critic.v2"),
        ("# x", "critic.txt", None),
        ("# x", "md", None),
    ],
)
def test_a_file_gives_its_name(content: str, filename: str, name: str | None) -> None:
    """The first heading outside of code is the name, else the stem; other files are no Markdown."""
    assert name_from_markdown(content, filename) == name


@given(st.text(max_size=400))
def test_names_have_a_limit(text: str) -> None:
    """Whatever the file holds, the name is short and not blank."""
    name = name_from_markdown(f"# {text}", "stem.md")
    assert name
    assert len(name.encode(errors="replace")) <= MAX_DISPLAY_NAME_BYTES
