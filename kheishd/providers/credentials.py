"""Credentials by reference: resolved at each call, never kept, never part of a message.

======================= ==================================================================
``env:NAME``            the daemon's environment variable
``credential:NAME``     the file NAME in ``$CREDENTIALS_DIRECTORY``, as systemd provides it
``slot:NAME``           a slot encrypted in the store; this version has none yet
======================= ==================================================================
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from kheishd.kernel.runtime import ModelFailure, RouteSpec

# A file longer than this is no credential; the longest in use are signed tokens of a few KiB.
MAX_CREDENTIAL_BYTES = 64 * 1024

# A shorter value is not scrubbed: "test" or "1234" would be cut out of ordinary text everywhere.
SCRUBBED_CHARACTERS_MIN = 8

_WHERE = {
    "env": "the daemon's environment; set it there and start the daemon again",
    "credential": "the credentials directory; the unit's LoadCredential= puts it there",
}

_REFERENCE = re.compile(r"(env|credential|slot):([A-Za-z0-9_.-]{1,255})")


def resolve(auth_ref: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The credential that a reference names, now; None where there is no reference.

    Errors: ModelFailure ``credential_missing``; its message names the reference, never the value.
    """
    if auth_ref is None:
        return None
    found = _REFERENCE.fullmatch(auth_ref)
    if found is None or found[2] in (".", ".."):
        raise _missing(f"'{auth_ref}' is no credential reference; write env:NAME or credential:NAME")
    source, name = found[1], found[2]
    if source == "slot":
        raise _missing(f"'{auth_ref}': this version keeps no secrets yet; use env:NAME or credential:NAME")
    value = environ.get(name) if source == "env" else _read(name, environ)
    if not value or not (value := value.strip()):
        raise _missing(f"'{auth_ref}' is not set in {_WHERE[source]}")
    if not value.isprintable() or not value.isascii():
        raise _missing(f"'{auth_ref}' holds characters that no HTTP header may have")
    return value


def problem(auth_ref: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Why a reference gives no credential now, or None."""
    try:
        resolve(auth_ref, environ)
    except ModelFailure as failure:
        return failure.message
    return None


def scrubbed(value: str) -> bool:
    """Whether a credential is one that is to be scrubbed wherever it turns up."""
    return len(value) >= SCRUBBED_CHARACTERS_MIN


def known_secrets(routes: Iterable[RouteSpec], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The credentials that these routes name and that exist now, to be scrubbed wherever they turn up.

    Shape: each once, longest first, so that one which holds another is replaced whole.
    """
    found: set[str] = set()
    for route in routes:
        try:
            value = resolve(route.auth_ref, environ)
        except ModelFailure:
            continue
        if value is not None and scrubbed(value):
            found.add(value)
    return sorted(found, key=lambda value: (-len(value), value))


def _read(name: str, environ: Mapping[str, str]) -> str | None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    try:
        with (Path(directory) / name).open("rb") as file:
            value = file.read(MAX_CREDENTIAL_BYTES + 1)
        return value.decode() if len(value) <= MAX_CREDENTIAL_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


def _missing(message: str) -> ModelFailure:
    return ModelFailure("credential_missing", message, retryable=False)
