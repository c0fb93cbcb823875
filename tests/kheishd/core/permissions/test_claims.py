"""Destinations and their patterns."""

import pytest

from kheishd.core.permissions.claims import (
    claims_of_command,
    destination,
    host_of,
    matches_destination,
    may_both_match,
)


@pytest.mark.parametrize(
    ("host", "port", "subject"),
    [
        ("PyPI.org.", 443, "net:pypi.org:443"),
        ("10.0.0.1", 80, "net:10.0.0.1:80"),
        ("::1", 8080, "net:[::1]:8080"),
        ("[FE80::1]", 22, "net:[fe80::1]:22"),
    ],
)
def test_a_destination_has_one_spelling(host: str, port: int, subject: str) -> None:
    """Names are lower case, without a final dot; addresses of IPv6 stand in brackets."""
    claim = destination(host, port)
    assert claim.subject == subject
    assert host_of(claim) == host.lower().strip("[].")


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("net:pypi.org", "net:pypi.org:443", True),
        ("net:PyPI.org.", "net:pypi.org:443", True),
        ("net:pypi.org:443", "net:pypi.org:443", True),
        ("net:pypi.org:44", "net:pypi.org:443", False),
        ("net:pypi.org:*", "net:pypi.org:443", True),
        ("net:pypi.org", "net:pypi.org.evil.example:443", False),
        ("net:pypi", "net:pypi.org:443", False),
        ("net:*.example", "net:a.b.example:1", True),
        ("net:*.example", "net:example:1", False),
        ("net:*", "net:[::1]:80", True),
        ("net:*:80", "net:[::1]:80", True),
        ("net:[::1]", "net:[::1]:80", True),
        ("net:[::1]:80", "net:[::1]:80", True),
        ("net:[::1]:81", "net:[::1]:80", False),
        ("net:::1", "net:[::1]:80", True),
        ("net:", "net:pypi.org:443", False),
    ],
)
def test_a_pattern_matches_by_host_and_port(pattern: str, subject: str, matches: bool) -> None:
    """A rule without a port matches any port of the host; a star matches any text."""
    assert matches_destination(pattern, subject) is matches


@pytest.mark.parametrize(
    ("line", "claims"),
    [
        ("ls -l", [("call", "ls -l")]),
        ("A=1; ls", [("call", "A=1; ls"), ("command", "A=1"), ("command", "ls")]),
        ("LANG=C; ls", [("call", "LANG=C; ls")]),
        ("a | b", [("call", "a | b"), ("command", "a"), ("command", "b")]),
        ("a $(b)", [("call", "a $(b)"), ("command", "a $(b)"), ("command", "b")]),
        ("a 'b c' $x", [("call", "a 'b c' $x"), ("command", "a 'b c' $x")]),
    ],
)
def test_a_command_line_has_claims(line: str, claims: list[tuple[str, str]]) -> None:
    """A line of one command is one claim; otherwise, the line and each of its commands are."""
    assert [(claim.kind, claim.subject) for claim in claims_of_command(line)] == claims


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("cat *.env", "cat a*", True),
        ("cat *.env", "cat a*.py", False),
        ("cat .env", "cat .e?v", True),
        ("cat .env", "cat .[e]nv", True),
        ("cat .env", "cat a?", False),
        ("rm *", "cat a*", False),
        ("*", "cat a*", True),
        ("x" * 600, "cat a*", True),
        ("a*" * 300, "a*" * 300, True),
    ],
)
def test_two_patterns_may_match_the_same_text(pattern: str, text: str, matches: bool) -> None:
    """A rule and a pattern of file names are compared; where that is costly, they match."""
    assert may_both_match(pattern, text) is matches
