"""The line of each TOML key is found, in every form that TOML has."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kheishd.config.toml import KeyPath, find_key_lines, find_line

EVERY_FORM = '''\
# a comment with a [table] and a key = 1 in it
plain = 1
"quoted key" = "with # no comment and = sign"
'literal.key' = 'C:\\path'   # a trailing comment
dotted.inner . deep = true

[table]          # line 7
text = """
not = "a key"
[nor.a.table]
"""              # line 11
after = 2        # line 12
literal = \'\'\'
x = 1\'\'\'\'\'
array = [        # line 15
  1,             # line 16
  "two",         # line 17
  { three = 3, four = [4, {five = 5}] },   # line 18
]
last = 1979-05-27T07:32:00Z

[table.sub."quo.ted"]   # line 22
key = "\\"quoted\\" \\\\"
[[list]]         # line 24
name = "a"
[[list]]
name = "b"       # line 27
[list.inner]     # line 28
x = 1
[[list.deeper]]  # line 30
y = 1
inline = { a.b = 1, "c" = 2 }   # line 32
'''


def test_every_form_of_key_is_found() -> None:
    """Keys are found bare, quoted, dotted, in all kinds of tables, and after long strings."""
    lines = find_key_lines(EVERY_FORM)
    expected: dict[KeyPath, int] = {
        ("plain",): 2,
        ("quoted key",): 3,
        ("literal.key",): 4,
        ("dotted",): 5,
        ("dotted", "inner", "deep"): 5,
        ("table",): 7,
        ("table", "text"): 8,
        ("table", "after"): 12,
        ("table", "literal"): 13,
        ("table", "array"): 15,
        ("table", "array", 1): 17,
        ("table", "array", 2, "four", 1, "five"): 18,
        ("table", "last"): 20,
        ("table", "sub", "quo.ted"): 22,
        ("table", "sub", "quo.ted", "key"): 23,
        ("list", 0, "name"): 25,
        ("list", 1, "name"): 27,
        ("list", 1, "inner", "x"): 29,
        ("list", 1, "deeper", 0, "y"): 31,
        ("list", 1, "deeper", 0, "inline", "a", "b"): 32,
    }
    assert {path: lines[path] for path in expected} == expected
    assert not any("not" in path or "nor" in path for path in lines)


def test_an_absent_key_has_the_line_of_its_table() -> None:
    """An absent key has the line of its table; without a table it has none."""
    lines = find_key_lines("[routes.local]\nmodel = 'x'\n")
    assert find_line(lines, ("routes", "local", "driver")) == 1
    assert find_line(lines, ("listen", "tcp")) is None


_words = st.text("ab-_ .\"'\\#=[]{}\u00e9", min_size=1, max_size=6)
_values = st.recursive(
    st.integers(0, 9) | st.booleans() | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=8,
)


def _format(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ", ".join(map(_format, value)) + "]"
        case _:
            return "{" + ", ".join(f"{_format(k)} = {_format(v)}" for k, v in value.items()) + "}"


def _find_paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    paths: set[KeyPath] = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        paths |= _find_paths(inner, (*path, key))
    return paths


@given(st.dictionaries(_words, _values, max_size=5))
def test_exactly_the_keys_of_a_document_are_found(document: dict[str, Any]) -> None:
    """In any document, exactly its keys are found, each on its line."""
    text = "".join(f"{_format(key)} = {_format(value)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    lines = find_key_lines(text)
    assert set(lines) == _find_paths(document)
    for number, key in enumerate(document, 1):
        assert lines[(key,)] == number
