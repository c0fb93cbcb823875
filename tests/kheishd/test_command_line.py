"""The command line of the daemon."""

import pytest

from kheishd.command_line import make_parser, read_start
from kheishd.launch import LaunchOptions

STARTS: tuple[list[str], ...] = (
    [],
    ["--home", "/h"],
    ["--home=/h"],
    ["--home", ""],
    ["--home=-x", "--home", "/last wins=yes"],
    ["--config", "c.toml", "--log-level", "debug", "--log-format=json"],
)


@pytest.mark.parametrize("words", STARTS, ids=" ".join)
def test_read_start_agrees_with_the_parser(words: list[str]) -> None:
    """A start is read as the parser reads it."""
    parsed = make_parser().parse_args(words)
    options = LaunchOptions(parsed.home, parsed.config, parsed.log_format, parsed.log_level)
    assert parsed.command is None
    assert read_start(words) == options


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["--home"],
        ["--home", "--config", "x"],
        ["--log-level", "loud"],
        ["--log-format=yaml"],
        ["--hom", "/h"],
        ["doctor"],
        ["--home", "/h", "restore", "b"],
        ["--", "x"],
    ],
    ids=" ".join,
)
def test_read_start_leaves_the_rest_to_the_parser(words: list[str]) -> None:
    """Commands, help and mistakes are for the parser."""
    assert read_start(words) is None
