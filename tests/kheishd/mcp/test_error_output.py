"""The error output of servers, and the line that tells why one failed."""

import pytest

from kheishd.core.text.scrub import Scrubber
from kheishd.mcp.error_output import ErrorOutput
from protocol.limits.mcp import MAX_ERROR_LINE_BYTES, MAX_FIRST_ERROR_LINES, MAX_LAST_ERROR_LINES

NPX = """\
npm warn exec The following package was not found and will be installed: nothing-like-it
npm error code E404
npm error 404 Not Found - GET https://registry.npmjs.org/nothing-like-it - Not found
npm error 404
npm error 404  'nothing-like-it@*' is not in this registry.
npm error A complete log of this run can be found in: /home/a/.npm/_logs/x-debug-0.log
"""

NODE = """\
node:internal/modules/cjs/loader:1228
  throw err;
  ^

Error: Cannot find module '/srv/none.js'
    at Module._resolveFilename (node:internal/modules/cjs/loader:1225:15)
    at node:internal/main/run_main_module:28:49 {
  code: 'MODULE_NOT_FOUND',
  requireStack: []
}

Node.js v20.19.0
"""

PYTHON = """\
Traceback (most recent call last):
  File "<string>", line 1, in <module>
ValueError: cannot do it

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "<string>", line 3, in <module>
ModuleNotFoundError: No module named 'none'
"""


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (NPX, "npm error 404 Not Found - GET https://registry.npmjs.org/nothing-like-it - Not found"),
        (NODE, "Error: Cannot find module '/srv/none.js'"),
        (PYTHON, "ModuleNotFoundError: No module named 'none'"),
        ("starting\nError accessing directory /x\nbye\n", "Error accessing directory /x"),
        ("Usage: server DIR\n", "Usage: server DIR"),
        ("one\ntwo\n", "two"),
        ("\n \n", None),
        ("", None),
    ],
)
def test_the_cause(output: str, cause: str | None) -> None:
    """The line that tells the reason is found, wherever a program writes it."""
    errors = ErrorOutput()
    errors.feed(output.encode())
    assert errors.find_cause() == cause


def test_bounds() -> None:
    """Of a long output the first and the last lines are kept; lines are cut, and made safe to print."""
    errors = ErrorOutput()
    for number in range(1_000):
        errors.feed(b"line %d\x1b[2J\xff\n" % number)
    assert len(errors.lines) == MAX_FIRST_ERROR_LINES + 1 + MAX_LAST_ERROR_LINES
    kept = MAX_FIRST_ERROR_LINES + MAX_LAST_ERROR_LINES
    assert errors.lines[MAX_FIRST_ERROR_LINES] == f"… {1_000 - kept} lines are left out"
    assert (errors.lines[0][:6], errors.lines[-1][:8]) == ("line 0", "line 999")
    assert "\x1b" not in "".join(errors.lines)
    errors.clear()
    errors.feed(b"x" * 10_000_000)
    assert errors.feed(b"\n") == ["x" * MAX_ERROR_LINE_BYTES]


def test_lines_in_pieces() -> None:
    """A line may come in pieces."""
    errors = ErrorOutput()
    assert errors.feed(b"can") == []
    assert errors.feed(b"not\n  open\nrest") == ["cannot", "  open"]
    assert errors.find_cause() == "cannot"


def test_a_secret_at_the_cut_of_a_line() -> None:
    """Of a line that is too long, no part of a secret is left at its end, in pieces of any size."""
    secret = b"sk-" + b"0123456789" * 5
    for size in (7, 100, MAX_ERROR_LINE_BYTES + 500):
        errors = ErrorOutput(Scrubber([secret.decode()]).scrub_cut)
        content = b"x" * (MAX_ERROR_LINE_BYTES - 20) + secret + b"y" * 400 + b"\nnext\n"
        for start in range(0, len(content), size):
            errors.feed(content[start : start + size])
        first, second = errors.lines
        assert first.strip("x") == ""
        assert second == "next"
