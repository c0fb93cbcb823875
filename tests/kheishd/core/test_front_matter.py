"""Front matter: split, read with lines, and refused where it could do harm."""

import pytest
import yaml

from kheishd.core.front_matter import (
    MAX_EXPLAINED_CHARACTERS,
    FrontMatterError,
    load_yaml,
    split_front_matter,
)


def test_split_and_lines() -> None:
    """The front matter begins on line 2 of the file, and every key has its line."""
    matter, rest = split_front_matter("---\na: 1.10\nb:\n- x\n- y\n---\n\nText\n")
    assert matter is not None
    assert rest == "Text"
    table, lines = load_yaml(matter, all_text=True)
    assert table == {"a": "1.10", "b": ["x", "y"]}
    assert (lines["a",], lines["b", 1]) == (2, 5)
    assert load_yaml(matter)[0]["a"] == 1.1


def test_without_front_matter() -> None:
    """A text without a first '---' line is all text; an unclosed one is an error."""
    assert split_front_matter("Text\n---\n") == (None, "Text\n---")
    with pytest.raises(FrontMatterError, match="no closing"):
        split_front_matter("---\na: 1\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x 1\nb: *x", "line 2: anchors"),
        ("a: 1\nb: !!python/object:os.system x", "line 3: anchors"),
        ("a: 1\na: 2", "line 3: a: duplicate key; it is already on line 2"),
        ("- 1", "line 2: the front matter is not a list"),
        ("a: [1", "line 2: while parsing a flow sequence"),
        ("a: b: c", "line 2: mapping values are not allowed"),
        ("a: \x00", "unacceptable"),
    ],
)
def test_problems_have_their_line(text: str, problem: str) -> None:
    """Each problem is reported with its line, in the same words whichever parser found it."""
    with pytest.raises(FrontMatterError, match=problem.replace("[", r"\[")) as raised:
        load_yaml(text)
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize("length", [MAX_EXPLAINED_CHARACTERS - 3, 60_000])
def test_deep_nesting_is_an_error(length: int) -> None:
    """A text of brackets neither ends the process nor takes long."""
    with pytest.raises(FrontMatterError, match="nested too deeply"):
        load_yaml("a: " + "[" * length)


@pytest.mark.parametrize("end", ["", "z: !x 1\n", "z: [1\n", "z: 1\nz: 2\n"])
def test_python_s_parser_reads_no_long_text(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """It takes 0.3 s for 12 KB of lists, whether they are valid or not, and a workspace has many files."""
    for loader in (yaml.BaseLoader, yaml.SafeLoader):
        monkeypatch.setattr(loader, "__init__", None)
    text = "".join(f"k{number}: [a, b, {{c: d}}, 'e']\n" for number in range(480)) + end
    if end:
        with pytest.raises(FrontMatterError, match="line 48"):
            load_yaml(text, all_text=True)
    else:
        assert len(load_yaml(text, all_text=True)[0]) == 480
