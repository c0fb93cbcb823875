"""The master key of the secret slots: its sources, and the file of the home with a generated one.

=============================  ==========================================================================
``$CREDENTIALS_DIRECTORY``     the file ``master`` in it, as systemd's ``LoadCredential=`` provides it
``$KHEISH_MASTER_KEY_FILE``    the path of a file that only the daemon's user may read
``<home>/master.key``          generated with the first slot
=============================  ==========================================================================

A file holds 32 random bytes, or lines with 32 bytes in base64: the first key seals, further ones only open
what they sealed earlier. The key of the home opens, too, beside one of the two others. The first two are
never written.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kheishd.core.sealing import KEY_BYTES
from protocol.errors.secret import MasterKeyUnusable
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CREDENTIAL: Final = "master"
VARIABLE: Final = "KHEISH_MASTER_KEY_FILE"

# A line takes 45 bytes: this is room for dozens of keys, with comments.
MAX_KEY_FILE_BYTES: Final = 4096

_FORMAT: Final = "expected 32 random bytes in base64 (openssl rand -base64 32)"


class MasterKeys(Value, frozen=True):
    """The keys, of which the first seals, and the path of its file. None are in a home without slots.

    ``is_generated``: the daemon made the file of the first key, and may replace it.
    """

    path: str
    keys: tuple[bytes, ...] = ()
    is_generated: bool = True


def read_master_keys(home: Path, environ: Mapping[str, str]) -> MasterKeys:
    """Return the current master keys. Errors: MasterKeyUnusable."""
    own = home / "master.key"
    directory, named = environ.get("CREDENTIALS_DIRECTORY"), environ.get(VARIABLE)
    credential = Path(directory) / CREDENTIAL if directory else None
    if credential is not None and not os.path.lexists(credential):
        credential = None
    if credential is not None and named:
        raise MasterKeyUnusable(
            f"there are two master keys: the credential {credential} and ${VARIABLE}; keep one of them"
        )
    keys = _read_keys(own, flags=os.O_NOFOLLOW) if os.path.lexists(own) else []
    if credential is not None:
        # systemd guards the directory, and an access list may show as rights of a group.
        return MasterKeys(str(credential), _join(_read_keys(credential, forbidden=0o022), keys), False)
    if named:
        return MasterKeys(named, _join(_read_keys(Path(named)), keys), False)
    return MasterKeys(str(own), tuple(keys))


def list_key_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths with keys and credentials outside of the home: no command of an agent may see them."""
    return tuple(path for path in map(environ.get, ("CREDENTIALS_DIRECTORY", VARIABLE)) if path)


def write_master_keys(path: Path, keys: Sequence[bytes], *, replaces: bool) -> None:
    """Write a file of keys, complete or not at all, and sync it and its name.

    Errors: MasterKeyUnusable, also if there is a file and this does not replace it.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        for leftover in path.parent.glob(f".{path.name}.*"):
            # Of a daemon that was killed while it wrote.
            leftover.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(b"".join(b64encode(key) + b"\n" for key in keys))
                file.flush()
                os.fsync(file.fileno())
            if replaces:
                fresh.rename(path)
            else:
                os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MasterKeyUnusable(f"the master key {path} cannot be written: {error.strerror}") from error


def _join(first: Sequence[bytes], second: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _read_keys(path: Path, *, forbidden: int = 0o077, flags: int = 0) -> list[bytes]:
    """Return the keys in a file that has none of the ``forbidden`` rights. Errors: MasterKeyUnusable."""
    try:
        # Opening a pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MasterKeyUnusable(f"the master key {path} is not a regular file")
            if status.st_uid not in (os.geteuid(), 0):
                raise MasterKeyUnusable(
                    f"the master key {path} belongs to the user with uid {status.st_uid}; "
                    f"it must belong to this one ({os.geteuid()})"
                )
            if stat.S_IMODE(status.st_mode) & forbidden:
                raise MasterKeyUnusable(
                    f"the master key {path} is open to other users; make it private: chmod 600"
                )
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise MasterKeyUnusable(f"the master key {path} cannot be read: {error.strerror}") from error
    if len(content) == KEY_BYTES and not (content.isascii() and content.decode().isprintable()):
        return [content]
    if len(content) > MAX_KEY_FILE_BYTES:
        raise MasterKeyUnusable(f"{path} has more than {MAX_KEY_FILE_BYTES} bytes; {_FORMAT}")
    keys = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        key = b""
        with suppress(ValueError):
            key = b64decode(line.strip(), validate=True)
        if len(key) != KEY_BYTES:
            raise MasterKeyUnusable(f"line {number} of the master key {path} is no key; {_FORMAT}")
        keys.append(key)
    if not keys:
        raise MasterKeyUnusable(f"the master key {path} is empty; {_FORMAT}")
    return keys
