"""The commands of the chat."""

from typing import get_args

import pytest

from kheishctl.shell.slash import SUMMARIES, Name, Slash, help_text, parse, unescaped


@pytest.mark.parametrize("name", get_args(Name))
def test_every_command_is_parsed_and_explained(name: Name) -> None:
    """Each is known by its word, with what follows as its argument."""
    assert parse(f"/{name}") == Slash(name)
    assert parse(f"  /{name}  50 ") == Slash(name, "50")
    assert f"/{name}" in help_text()
    assert name in SUMMARIES


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "/etc/hosts is odd",
        "/slow 3 100",
        '/call bash {"x": 1}',
        "//help",
        "/help\nand more",
        "a /help",
        "/",
    ],
)
def test_everything_else_is_said(text: str) -> None:
    """A path, a line that the agent obeys, several lines, a command with two slashes: not ours."""
    assert parse(text) is None


@pytest.mark.parametrize(("text", "meant"), [("/hlep", "/help"), ("/resett", "/reset"), ("/quiet", "/quit")])
def test_a_mistyped_command_is_not_sent(text: str, meant: str) -> None:
    """The person is told what there is, and how to say it all the same."""
    error = parse(text)
    assert isinstance(error, str)
    assert meant in error
    assert f"/{text}" in error


def test_unescaped() -> None:
    """Two slashes say one."""
    assert unescaped("//help me") == "/help me"
    assert unescaped("/slow 1 1") == "/slow 1 1"
    assert unescaped("hi") == "hi"
