"""Exports: every change of a line, of the chain or of the end is found and named."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.export import (
    NO_HASH,
    ExportEnd,
    ExportProblem,
    ExportReader,
    derive_key,
    encode_end,
    has_valid_signature,
    sign_end,
    signed_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED, OTHER_SEED = b"1" * 32, b"2" * 32


def chain(events: Sequence[dict[str, Any]], seed: bytes | None = SEED) -> list[str]:
    """Return an export of these events, with valid hashes and a valid end."""
    digest, lines, cursor = NO_HASH, [], 0
    for event in events:
        stored = json.dumps(event)
        digest = sha256(digest + stored.encode()).digest()
        cursor = event["cursor"]
        lines.append(f'{{"hash":"{digest.hex()}","event":{stored}}}')
    end = ExportEnd(
        session_id="ses_1",
        lines=len(lines),
        cursor=cursor,
        hash=digest.hex(),
        epoch="e",
        exported_at_ms=1,
    )
    return [*lines, encode_end(end if seed is None else sign_end(end, seed))]


def renamed(number: int, title: str = "") -> dict[str, Any]:
    """Return an event."""
    title = title or f"title {number}"
    return {"cursor": 10 * number, "at_ms": 1, "type": "session_renamed", "title": title}


EVENTS = [renamed(number) for number in range(1, 7)]
LINES = chain(EVENTS)


def problem_of(lines: Sequence[str], size: int = 100) -> tuple[str, int, str]:
    """Return the kind, line and message of an export's problem, read in parts of a size."""
    with pytest.raises(ExportProblem) as caught:
        read_whole(lines, size)
    return caught.value.kind, caught.value.line, str(caught.value)


def read_whole(lines: Sequence[str], size: int) -> None:
    """Read an export in parts of a size. Errors: ExportProblem."""
    reader = ExportReader()
    for begin in range(0, len(lines), size):
        reader.read(lines[begin : begin + size])
    reader.require_end()


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_whole_export_is_read(size: int) -> None:
    """All events are returned in order, whatever the parts."""
    reader = ExportReader()
    entries = []
    for begin in range(0, len(LINES), size):
        entries += reader.read(LINES[begin : begin + size])
    end = reader.require_end()
    assert [entry.envelope.cursor for entry in entries] == [event["cursor"] for event in EVENTS]
    assert (end.lines, end.cursor, end.hash) == (6, 60, reader.last_hash.hex())
    assert end.signature is not None
    assert end.signature.key == derive_key(SEED)


def test_a_part_continues_where_the_previous_one_ended() -> None:
    """A new reader continues with the state of another one."""
    first = ExportReader()
    first.read(LINES[:3])
    second = ExportReader(last_hash=first.last_hash, cursor=first.cursor, lines=first.lines)
    second.read(LINES[3:])
    assert second.require_end().lines == 6


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("lines", "kind", "line"),
    [
        (LINES[:-1], "truncated", 7),
        (LINES[:3], "truncated", 4),
        ([], "truncated", 1),
        ([*LINES[:4], LINES[-1]], "truncated", 5),
        ([LINES[-1]], "truncated", 1),
        ([*LINES[:2], LINES[3], LINES[2], *LINES[4:]], "reordered", 3),
        ([*LINES[:3], LINES[2], *LINES[3:]], "reordered", 4),
        ([*LINES[:2], *LINES[3:]], "edited", 3),
        ([*LINES[:2], LINES[2].replace("title 3", "title 9"), *LINES[3:]], "edited", 3),
        ([*LINES[:2], LINES[2].replace('"hash":"', '"hash":"0')[:-1], *LINES[3:]], "unreadable", 3),
        ([*chain([*EVENTS[:2], renamed(3, "forged"), *EVENTS[3:]])[:-1], LINES[-1]], "rechained", 6),
        ([*chain([*EVENTS, renamed(7)])[:-1], LINES[-1]], "rechained", 7),
        ([*LINES, LINES[0]], "edited", 8),
        ([*LINES[:-1], LINES[-1].replace('"lines":6', '"lines":7')], "wrong_signature", 7),
        ([*LINES[:-1], LINES[-1].replace('"end":{', '"end":{"x')], "unreadable", 7),
        ([LINES[0], "no line", *LINES[1:]], "unreadable", 2),
    ],
)
def test_a_changed_export_is_named_as_such(lines: list[str], kind: str, line: int, size: int) -> None:
    """Each kind of change is named, with the first bad line."""
    found = problem_of(lines, size)
    # A reader of single lines cannot see that the line before a removed one comes later.
    expected = ("edited", "reordered") if kind == "reordered" and size < 100 else (kind,)
    assert (found[0] in expected, found[1]) == (True, line), found
    assert kind == "unreadable" or any(word in found[2] for word in (*expected, "signature", "line"))


def test_a_rechained_export_with_a_new_end_needs_the_key() -> None:
    """If everything was computed anew, only the signature tells: it is missing, or by another key."""
    forged = [*EVENTS[:2], renamed(3, "forged"), *EVENTS[3:]]
    for seed, key in ((None, None), (OTHER_SEED, derive_key(OTHER_SEED))):
        reader = ExportReader()
        reader.read(chain(forged, seed))
        signature = reader.require_end().signature
        assert (None if signature is None else signature.key) == key
    ends = chain(forged, None)[-1], LINES[-1]
    unsigned, signed = (json.loads(end)["end"] for end in ends)
    moved = json.dumps({"end": unsigned | {"signature": signed["signature"]}}, separators=(",", ":"))
    kind, line, message = problem_of([*chain(forged, None)[:-1], moved])
    assert (kind, line) == ("wrong_signature", 7)
    assert derive_key(SEED) in message
    assert "rechained" in message


def test_a_problem_of_a_signed_export_names_the_key() -> None:
    """The key is named where its signature contradicts the lines."""
    assert derive_key(SEED) in problem_of([*LINES[:4], LINES[-1]])[2]


@given(st.integers(0, 1_000), st.text(max_size=20), st.integers(0, 2**53))
def test_a_signature_covers_every_field(lines: int, epoch: str, at_ms: int) -> None:
    """A change of any field invalidates the signature; the signed bytes do not depend on it."""
    end = ExportEnd(session_id="s", lines=1, cursor=2, hash="00", epoch="e", exported_at_ms=3)
    signed = sign_end(end, SEED)
    assert has_valid_signature(signed)
    assert signed_bytes(signed) == signed_bytes(end)
    for changed in (
        replace(signed, lines=lines + 2),
        replace(signed, epoch=epoch + "f"),
        replace(signed, exported_at_ms=at_ms + 4),
        replace(signed, session_id=epoch + "t"),
    ):
        assert not has_valid_signature(changed)


@pytest.mark.parametrize(
    "key", ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:\n", "ed25519:" + "A" * 43 + "="]
)
def test_a_strange_key_is_no_signature(key: str) -> None:
    """A key or a signature that is none is invalid, and no error."""
    end = ExportEnd(session_id="s", lines=1, cursor=2, hash="00", epoch="e", exported_at_ms=3)
    signature = sign_end(end, SEED).signature
    assert signature is not None
    assert not has_valid_signature(replace(end, signature=replace(signature, key=key)))
    assert not has_valid_signature(replace(end, signature=replace(signature, value=key)))
