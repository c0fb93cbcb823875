"""Credentials by reference: resolved at each call, never part of a message.

======================= ==================================================================
``env:NAME``            the daemon's environment variable
``credential:NAME``     the file NAME in ``$CREDENTIALS_DIRECTORY``, as systemd provides it
``slot:NAME``           an encrypted slot in the store
======================= ==================================================================
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote

from msgspec.structs import replace

from kheishd.config.credentials import is_credential
from kheishd.core.text.spellings import MIN_SECRET_CHARACTERS
from kheishd.kernel.runtime import RouteSpec
from kheishd.kernel.secrets import SlotReader

# The longest credentials are signed tokens of a few KiB; a longer file is no credential.
MAX_CREDENTIAL_BYTES = 64 * 1024

_WHERE = {
    "env": "the daemon's environment; set it there and restart the daemon",
    "credential": "the credentials directory; add LoadCredential= to the unit",
    "slot": "the store; secret.put stores a value",
}

_REFERENCE = re.compile(r"(env|credential|slot):([A-Za-z0-9_.-]{1,255})")


class CredentialMissing(Exception):
    """A reference resolves to no usable credential; the message names the reference, never the value."""


def resolve_credential(
    auth_ref: str | None, slots: SlotReader, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return the current credential of a reference; None without a reference. Errors: CredentialMissing."""
    if auth_ref is None:
        return None
    match = _REFERENCE.fullmatch(auth_ref)
    if match is None or match[2] in (".", ".."):
        raise CredentialMissing(
            f"'{auth_ref}' is not a credential reference; use slot:NAME, env:NAME or credential:NAME"
        )
    source, name = match[1], match[2]
    if source == "slot":
        reason, value = slots.problem(name), slots.read(name)
        if reason is not None:
            raise CredentialMissing(f"the slot '{name}' {reason}")
    else:
        value = environ.get(name) if source == "env" else _read(name, environ)
    if not value or not (value := value.strip()):
        raise CredentialMissing(f"'{auth_ref}' is not set in {_WHERE[source]}")
    if not value.isprintable() or not value.isascii():
        raise CredentialMissing(f"'{auth_ref}' contains characters that an HTTP header cannot hold")
    if len(value) < MIN_SECRET_CHARACTERS:
        raise CredentialMissing(
            f"'{auth_ref}' has fewer than {MIN_SECRET_CHARACTERS} characters, too few to be redacted "
            "wherever it occurs: use a longer credential, or remove auth_ref if the server needs none"
        )
    return value


def find_problem(
    auth_ref: str | None, slots: SlotReader, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return why a reference resolves to no credential now, or None."""
    try:
        resolve_credential(auth_ref, slots, environ)
    except CredentialMissing as error:
        return str(error)
    return None


def find_secrets(
    routes: Iterable[RouteSpec], slots: SlotReader, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the current credentials of these routes, to be redacted wherever they occur.

    Those in ``options.headers``, and passwords of proxies in the environment, are among them.

    Shape: without duplicates, longest first, so that one which contains another is replaced completely.
    """
    secrets: set[str] = set()
    routes = list(routes)
    for reference in {key for route in routes for key in (*route.auth_refs, route.auth_ref)}:
        try:
            value = resolve_credential(reference, slots, environ)
        except CredentialMissing:
            continue
        if value is not None:
            secrets.add(value)
    for route in routes:
        headers = route.options.get("headers")
        for name, value in headers.items() if isinstance(headers, Mapping) else ():
            if isinstance(value, str) and is_credential(name, value):
                secrets.add(value.split()[-1] if value.strip() else "")
    for name, value in environ.items():
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            user, at, _ = value.rpartition("@")
            password = user.partition("://")[2].partition(":")[2] if at else ""
            secrets |= {password, unquote(password)}
    secrets = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS}
    return sorted(secrets, key=lambda value: (-len(value), value))


def identify_key(
    route: RouteSpec | None,
    auth_ref: str | None,
    slots: SlotReader,
    environ: Mapping[str, str] = os.environ,
) -> object:
    """Return a value that changes with a route and the value of its key, or of all keys without one."""
    if route is None:
        return None
    keyed = route if auth_ref is None else replace(route, auth_ref=auth_ref, auth_refs=())
    return route, hash(tuple(find_secrets([keyed], slots, environ)))


def _read(name: str, environ: Mapping[str, str]) -> str | None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    try:
        with (Path(directory) / name).open("rb") as file:
            value = file.read(MAX_CREDENTIAL_BYTES + 1)
        return value.decode("utf-8-sig") if len(value) <= MAX_CREDENTIAL_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None
