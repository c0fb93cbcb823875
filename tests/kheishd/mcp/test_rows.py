"""The rows of a server's tools."""

from typing import Any

import pytest

from kheishd.mcp.rows import make_rows
from protocol.limits.mcp import (
    MAX_SERVER_TOOL_DESCRIPTION_BYTES,
    MAX_SERVER_TOOL_SCHEMA_BYTES,
    MAX_SERVER_TOOLS,
)
from tests.support.mcp_servers import listed, spec_of


def test_a_row() -> None:
    """A tool asks a person, and is neither repeated nor run beside others unless its server says so."""
    (row,), warnings = make_rows(
        spec_of("s", tool_timeout_s=5), listed("do it", description="Does \x1b[1mit.")
    )
    assert warnings == []
    assert (row.row.name, row.remote_name, row.spec.name) == ("mcp__s__do_it", "do it", "s")
    assert (row.row.default, row.row.kind, row.row.repeatable, row.row.parallel, row.row.in_plan) == (
        *("ask", "execute"),
        *(False, False, False),
    )
    assert row.row.timeout_s > 5
    assert "\x1b" not in row.row.description


@pytest.mark.parametrize(
    ("annotations", "repeatable", "parallel"),
    [
        ({"readOnlyHint": True}, True, True),
        ({"idempotentHint": True}, True, False),
        ({"readOnlyHint": False}, False, False),
        ({"destructiveHint": False}, False, False),
    ],
)
def test_annotations(annotations: dict[str, bool], *, repeatable: bool, parallel: bool) -> None:
    """A tool is repeated after a crash, and runs beside others, as far as its server permits that."""
    (row,), _ = make_rows(spec_of(), listed("a", annotations=annotations))
    assert (row.row.repeatable, row.row.parallel) == (repeatable, parallel)
    assert row.row.default == "ask"


def test_chosen_tools() -> None:
    """Only enabled tools are offered, without the disabled ones; an unknown name is a warning."""
    spec = spec_of(enabled_tools=["a", "b", "z"], disabled_tools=["b"])
    rows, warnings = make_rows(spec, listed("c", "b", "a"))
    assert [row.remote_name for row in rows] == ["a"]
    assert warnings == ["enabled_tools names 'z', which the server does not have"]


def test_names_that_meet() -> None:
    """Of two tools with one name for agents, the second is left out with a warning."""
    rows, warnings = make_rows(spec_of(), listed("a b", "a_b", "a.b"))
    assert [row.remote_name for row in rows] == ["a b"]
    assert warnings == [
        f"the tool '{name}' is left out: its name is that of 'a b' for agents" for name in ("a_b", "a.b")
    ]


def test_limits() -> None:
    """Too many tools and too long schemas are left out with a warning, and a long description is cut."""
    rows, (warning,) = make_rows(spec_of(), listed(*(f"t{number}" for number in range(5_000))))
    assert len(rows) == MAX_SERVER_TOOLS
    assert warning.startswith(f"the server has {5_000 - MAX_SERVER_TOOLS} tools beyond the limit")
    schema = {"type": "object", "title": "x" * MAX_SERVER_TOOL_SCHEMA_BYTES}
    rows, (warning,) = make_rows(spec_of(), [{"name": "a", "inputSchema": schema}])
    assert rows == []
    assert "its schema cannot be used: it has" in warning
    (row,), _ = make_rows(spec_of(), listed("a", description="ä" * MAX_SERVER_TOOL_DESCRIPTION_BYTES))
    assert len(row.row.description.encode()) <= MAX_SERVER_TOOL_DESCRIPTION_BYTES


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "take too long to validate"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}, "places of its own"),
        ({"type": "object", "properties": {"a": {"type": "nothing"}}}, "it is not valid"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "it is not valid"),
    ],
)
def test_unusable_schemas(schema: dict[str, Any], text: str) -> None:
    """A tool whose every call would fail is left out; an output schema of that kind is not used."""
    rows, (warning,) = make_rows(spec_of(), [{"name": "a", "inputSchema": schema}])
    assert rows == []
    assert warning.startswith("the tool 'a' is left out: its schema cannot be used: ")
    assert text in warning
    (row,), (warning,) = make_rows(spec_of(), listed("a", outputSchema=schema))
    assert row.output_schema is None
    assert warning.startswith("the output schema of the tool 'a' is not used: ")


def test_many_warnings() -> None:
    """A server cannot fill the log: warnings are counted beyond a few."""
    _, warnings = make_rows(spec_of(), listed(*("a" + chr(0x3B1 + number) for number in range(20))))
    assert warnings[-1] == "and 3 more warnings"


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a" * 129, "a\u202eb"])
def test_names_that_mislead(name: str) -> None:
    """A tool whose name is long or has characters that act is left out, as a person is shown the name."""
    rows, (warning,) = make_rows(spec_of(), listed(name))
    assert rows == []
    assert "its name has" in warning
