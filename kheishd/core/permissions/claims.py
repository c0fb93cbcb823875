"""The claims of a call: the call itself, the commands of its line, and the destinations that it connects to.

Each claim is judged by the rules on its own, and the strictest decision counts. The subject of a destination
is ``net:HOST:PORT``. A rule with the subject ``net:HOST`` or ``net:HOST:PORT`` is about destinations only; a
``*`` in it matches any text. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.core.commands.readings import Reading
    from protocol.objects.permission import ClaimKind

NETWORK: Final = "net:"
"""The beginning of the subject of a destination."""

# Comparing two patterns takes the product of their lengths.
MAX_COMPARED_CHARACTERS: Final = 512


class Claim(Value, frozen=True):
    """One thing that a call asks for, as rules match it.

    Of a command, ``words`` are its words, ``readings`` the texts that an allow may match, and ``aliases``
    more texts that only a deny or an ask matches. ``has_pattern``: files of any name may replace a word.
    ``problem`` is why no allow with a ``*`` holds for a command line. Not ``is_complete``: the command was
    found in a line that is not understood, so an allow of it says nothing.
    """

    kind: ClaimKind
    subject: str
    words: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    aliases: tuple[str, ...] = ()
    has_pattern: bool = False
    problem: str | None = None
    is_complete: bool = True


def claims_of_command(line: str) -> list[Claim]:
    """Return the claims of a command line: the line, and its simple commands unless it is only one."""
    # Imported here, because most daemons judge no command right after their start.
    from kheishd.core.commands.line import read_line
    from kheishd.core.commands.readings import aliases_of, readings_of

    parsed = read_line(line)
    call = Claim("call", line, problem=parsed.problem)
    commands = [
        Claim(
            "command",
            command.written or readings[0].text,
            words=tuple(word.value for word in command.words),
            readings=readings,
            aliases=aliases_of(command),
            has_pattern=any(word.is_glob for word in command.words),
            is_complete=parsed.problem is None,
        )
        for command in parsed.commands
        if command.words or command.assignments
        if (readings := readings_of(command, line))
    ]
    if len(commands) == 1 and parsed.problem is None:
        return [replace(commands[0], kind="call", subject=line)]
    return [call, *commands]


def may_both_match(pattern: str, text: str) -> bool:
    """Whether some text is matched by a rule's pattern and by a command with patterns of file names.

    Shape:  of long ones, it is taken for granted.
    """
    if len(pattern) > MAX_COMPARED_CHARACTERS or len(text) > MAX_COMPARED_CHARACTERS:
        return True
    text = re.sub(r"\[[^]]*\]|\?", "*", text)
    reached = {0}
    for character in pattern:
        # The positions of the text that the pattern may have reached, each over any stars of the text.
        reached = _pass_stars(text, reached)
        if character == "*":
            reached = set(range(min(reached, default=len(text) + 1), len(text) + 1))
            continue
        reached = {
            position if text[position] == "*" else position + 1
            for position in reached
            if position < len(text) and text[position] in (character, "*")
        }
    return len(text) in _pass_stars(text, reached)


def _pass_stars(text: str, reached: set[int]) -> set[int]:
    passed = set(reached)
    for position in sorted(reached):
        while position < len(text) and text[position] == "*":
            position += 1
            passed.add(position)
    return passed


def destination(host: str, port: int) -> Claim:
    """Return the claim to connect to a host: a name, or an address, which may be of IPv6."""
    host = host.lower().removesuffix(".")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return Claim("network", f"{NETWORK}{host}:{port}")


def host_of(claim: Claim) -> str:
    """Return the host of a destination, without brackets."""
    host, _ = _split(claim.subject)
    return host.removeprefix("[").removesuffix("]")


def matches_destination(pattern: str, subject: str) -> bool:
    """Whether a rule's ``net:HOST[:PORT]`` matches a destination; without a port, it matches any port."""
    host_pattern, port_pattern = _split(pattern.lower())
    host, port = _split(subject)
    return matches_subject(host_pattern, host) and matches_subject(port_pattern, port or "")


def _split(subject: str) -> tuple[str, str | None]:
    """Return the host and the port of a destination or of a rule's subject; an address has its brackets."""
    text = subject.removeprefix(NETWORK)
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        return host + bracket, rest.removeprefix(":") or None
    if text.count(":") > 1:
        return f"[{text}]", None
    host, _, port = text.partition(":")
    return host.removesuffix("."), port or None


def matches_subject(pattern: str | None, subject: str) -> bool:
    """Whether a rule's subject pattern matches a subject; None matches any, ``*`` any text, even none.

    Linear in the length of both: each piece is searched once, from the left.
    """
    if pattern is None:
        return True
    first, *pieces = pattern.split("*")
    if not pieces:
        return subject == pattern
    last = pieces.pop()
    if len(subject) < len(first) + len(last) or not (subject.startswith(first) and subject.endswith(last)):
        return False
    start, end = len(first), len(subject) - len(last)
    for piece in pieces:
        position = subject.find(piece, start, end)
        if position < 0:
            return False
        start = position + len(piece)
    return True
