"""Notes: the record, its terms, and its form as a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.front_matter import FrontMatterError
from kheishd.core.memory.note import (
    evolve,
    evolve_notebook,
    format_file,
    names_of,
    parse_file,
    terms_of,
)
from protocol.events.memory import NotebookChanged, NoteDeleted, NoteWritten
from protocol.journal.envelope import Envelope
from protocol.limits.memory import MAX_NOTE_INDEX_BYTES
from protocol.objects.memory import NoteProperties

NOTE = NoteProperties(agent="default", name="Build steps", content="Run make.\n", aliases=["make"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


def test_a_note_is_the_fold_of_its_events() -> None:
    """Versions count from 1; the number is the first event's cursor; a deleted note has no record."""
    first = evolve(
        None,
        Envelope(cursor=5, at_ms=50, session_id="ses_1"),
        NoteWritten(number=5, agent="a", name="n", content="x"),
    )
    assert first is not None
    assert (first.number, first.version, first.session_id) == (5, 1, "ses_1")
    changed = NoteWritten(number=5, agent="a", name="n", content="y")
    second = evolve(first, Envelope(cursor=9, at_ms=90), changed)
    assert second is not None
    assert (second.version, second.content, second.created_at_ms, second.updated_at_ms) == (2, "y", 50, 90)
    assert evolve(second, Envelope(cursor=10, at_ms=100), NoteDeleted(number=5)) is None
    with pytest.raises(AssertionError, match="first event"):
        evolve(None, Envelope(cursor=9, at_ms=90), changed)
    with pytest.raises(AssertionError, match="before it is forgotten"):
        evolve(None, Envelope(cursor=9, at_ms=90), NoteDeleted(number=5))


def test_totals_are_those_of_the_newest_event() -> None:
    """The record keeps the cursor of the first event."""
    first = evolve_notebook(None, Envelope(cursor=6, at_ms=1), NotebookChanged(agent="a", number=5, notes=1))
    second = evolve_notebook(
        first, Envelope(cursor=9, at_ms=1), NotebookChanged(agent="a", number=8, notes=2)
    )
    assert (second.notes, second.created_cursor, second.updated_cursor) == (2, 6, 9)


def test_the_names_of_a_note() -> None:
    """A name and an alias that are the same count once."""
    assert names_of(replace(NOTE, aliases=["BUILD  steps", "Make"])) == ["build steps", "make"]


def test_the_terms_of_a_note() -> None:
    """Names count twice; the length is that of all terms."""
    terms = terms_of(NOTE)
    assert terms.counts == {"build": 2, "steps": 2, "make": 3, "run": 1}
    assert terms.length == 8


def test_the_index_of_a_note_is_limited() -> None:
    """A note with very many different words is found by its names and its first words."""
    note = replace(NOTE, content=" ".join(f"word{number}" for number in range(5_000)))
    terms = terms_of(note)
    assert {"build", "make", "word0"} <= terms.counts.keys()
    assert len(terms.counts) < MAX_NOTE_INDEX_BYTES // 28
    assert terms.length == 5_006


@given(name=NAME, alias=NAME, content=TEXT)
def test_a_file_is_read_as_the_same_note(name: str, alias: str, content: str) -> None:
    """Every name and every content survive."""
    note = NoteProperties(
        agent="a",
        name=name,
        content=content,
        kind="archive",
        aliases=[alias],
        origins=["connector"],
        sender="u",
    )
    file = format_file(note)
    matter, text = parse_file(file.content, file.filename)
    assert (matter.name, matter.aliases, matter.kind, matter.origins, matter.sender, text) == (
        name,
        [alias],
        "archive",
        ["connector"],
        "u",
        content,
    )


def test_the_names_of_files() -> None:
    """A file's name is made of the note's and is no path; two notes never share one."""
    names = {format_file(replace(NOTE, name=name)).filename for name in ("../../x", "x", "猫", "a/b")}
    assert len(names) == 4
    assert all("/" not in name and name.endswith(".md") and not name.startswith(".") for name in names)


@pytest.mark.parametrize(
    ("content", "name"), [("# A plan\n\nDo.", "A plan"), ("Do.", "file"), ("", "file"), ("--- x", "file")]
)
def test_a_file_without_front_matter(content: str, name: str) -> None:
    """All of it is content; its first heading, or its name, is the name."""
    matter, text = parse_file(content, "file.md")
    assert (matter.name, text) == (name, content)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("---\nname: x\n", 1, "no closing"),
        ("---\nname: x\ncolour: red\n---\n", 3, "colour"),
        ("---\naliases: x\nname: y\n---\n", 2, "aliases"),
        ("---\n- x\n---\n", 2, "key: value"),
        ("---\nkind: note\n---\n", 1, "'name' is missing"),
        ("---\nname: &a x\n---\n", 2, "anchors"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(content: str, line: int, message: str) -> None:
    """Every problem has the line of the file."""
    with pytest.raises(FrontMatterError) as caught:
        parse_file(content, "x.md")
    assert caught.value.problems[0][0] == line
    assert message in caught.value.problems[0][1]


def test_a_file_that_is_no_markdown() -> None:
    """Without front matter, the file's name must say what it is."""
    with pytest.raises(FrontMatterError, match="not Markdown"):
        parse_file("x", "x.exe")
