"""``kheishctl secret``."""

import sys
from collections.abc import Iterator

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.terminal import Terminal

VALUE = "sk-0123456789"


@pytest.fixture(autouse=True)
def _delete_slots(ctl: Ctl) -> Iterator[None]:
    """Leave no slot to the next test."""
    yield
    for slot in ctl.json("secret", "list")["secrets"]:
        ctl("secret", "delete", slot["slot_id"])


def test_put_from_standard_input(ctl: Ctl) -> None:
    """The value is read without its last line break, and the output does not contain it."""
    slot = ctl.json("secret", "put", "ctl-a", "--stdin", "--kind", "api_key", stdin=f"{VALUE}\n")
    assert (slot["slot_id"], slot["kind"], slot["revision"]) == ("ctl-a", "api_key", 1)
    done = ctl("secret", "put", "ctl-a", "--stdin", "--kind", "opaque", stdin="pin\r\n")
    assert "so short that it is not redacted" in done.err
    assert "pin" not in done.out


def test_put_keeps_the_kind(ctl: Ctl) -> None:
    """A value that replaces an API key is one, unless another kind is given."""
    ctl.json("secret", "put", "ctl-d", "--stdin", "--kind", "api_key", stdin=VALUE)
    assert ctl.json("secret", "put", "ctl-d", "--stdin", stdin=f"{VALUE}a")["kind"] == "api_key"
    assert "at least 8 characters" in ctl("secret", "put", "ctl-d", "--stdin", stdin="pin").err
    slot = ctl.json("secret", "put", "ctl-d", "--stdin", "--kind", "opaque", stdin=VALUE)
    assert slot["kind"] == "opaque"


def test_put_does_not_print_an_argument(ctl: Ctl) -> None:
    """A value that was given as an argument is not repeated; the message says how to give it."""
    done = ctl("secret", "put", "ctl-e", VALUE, stdin="")
    assert done.code == exit_codes.USAGE
    assert "--stdin" in done.err
    assert VALUE not in done.err + done.out


def test_put_by_prompt(ctl: Ctl) -> None:
    """In a terminal the value is asked for and not shown."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(ctl.home), "secret", "put", "ctl-b"]
    with Terminal(command, {}) as terminal:
        terminal.sees("Value:")
        terminal.say(VALUE)
        assert terminal.ends() == exit_codes.OK
        assert "ctl-b" in terminal.text
        assert VALUE not in terminal.text


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["ctl-c"], VALUE),
        (["ctl-c", "--stdin"], ""),
        (["ctl-c", "--stdin"], "\n"),
        (["ctl-c", "--stdin"], b"\xff"),
        (["ctl-c", "--stdin"], "x" * 65_537),
        (["ctl-c", VALUE], ""),
    ],
)
def test_put_usage(ctl: Ctl, arguments: list[str], stdin: str | bytes) -> None:
    """A value that is missing, no text, too long, or an argument is a usage error."""
    assert ctl("secret", "put", *arguments, stdin=stdin).code == exit_codes.USAGE


def test_show_is_list(ctl: Ctl) -> None:
    """There is no command that shows a slot; the message names the list."""
    assert "Did you mean 'kheishctl secret list'?" in ctl("secret", "show").err


def test_rotate_takes_no_slot(ctl: Ctl) -> None:
    """The message about a slot names the command that replaces its value."""
    done = ctl("secret", "rotate", "openai")
    assert done.code == exit_codes.USAGE
    assert "rotate replaces the master key; to replace a value: kheishctl" in done.err
    assert "secret put openai --stdin" in done.err


def test_rotate(ctl: Ctl) -> None:
    """The number of slots and the file are printed, and no key."""
    ctl.json("secret", "put", "ctl-e", "--stdin", stdin=VALUE)
    done = ctl("secret", "rotate")
    assert (done.code, "sealed 1 slot by the new key in " in done.out) == (0, True)
    assert (ctl.home / "master.key").read_text().strip() not in done.out


def test_list_and_delete(ctl: Ctl) -> None:
    """The list has a row for each slot; a deleted one is gone, and a missing one is a failure with a hint."""
    ctl.json("secret", "put", "ctl-d", "--stdin", stdin=VALUE)
    assert [row[0] for row in ctl("secret", "list").rows] == ["ctl-d"]
    assert "ctl-d" in ctl("secret", "delete", "ctl-d").out
    assert ctl("secret", "list").rows == []
    done = ctl("secret", "delete", "ctl-d")
    assert done.code == exit_codes.FAILED
    assert "secret list" in done.err
