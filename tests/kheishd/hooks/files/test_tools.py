"""The rows of the file tools, beside the table they are made from."""

import pytest

from kheishd.hooks.files.tools import tools

TABLE = {
    "read_file": ("read", "allow", 5.0),
    "write_file": ("edit", "ask", 5.0),
    "edit_file": ("edit", "ask", 5.0),
    "apply_patch": ("edit", "ask", 10.0),
    "list_files": ("read", "allow", 10.0),
    "glob_search": ("read", "allow", 10.0),
    "grep_search": ("read", "allow", 10.0),
}


@pytest.mark.parametrize("regex", [True, False])
def test_what_the_daemon_knows_of_each(regex: bool) -> None:
    """Those that read run beside others, again, and in plan mode; those that edit do none of that."""
    rows = tools(regex=regex)
    assert {row.name: (row.kind, row.default, row.timeout_s) for row in rows} == TABLE
    for row in rows:
        reads = row.kind == "read"
        assert (row.parallel, row.repeatable, row.in_plan) == (reads, reads, reads), row.name
        assert row.description, row.name
        assert row.schema["type"] == "object", row.name


def test_the_model_is_told_what_a_pattern_is() -> None:
    """A regular expression only where one is understood."""
    told = {
        regex: next(row.description for row in tools(regex=regex) if "grep" in row.name)
        for regex in (True, False)
    }
    assert "match a regular expression" in told[True]
    assert "exactly as it is given" in told[False]
