"""The key with which a home signs exports: made on first use, private to the home, in no backup.

A restored or copied store therefore signs with the key of its new home. To keep the key, copy the file.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from protocol.errors.session import ExportKeyUnusable
from protocol.export import ExportEnd, derive_key, sign_end

if TYPE_CHECKING:
    from pathlib import Path

SEED_BYTES: Final = 32
MAX_FILE_BYTES: Final = 1024


class SigningKey:
    """The Ed25519 key in a file of the home."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def public(self) -> str:
        """Return the public key as text. Errors: ExportKeyUnusable."""
        return derive_key(self._read())

    def sign(self, end: ExportEnd) -> ExportEnd:
        """Sign the end of an export. Errors: ExportKeyUnusable."""
        return sign_end(end, self._read())

    def _read(self) -> bytes:
        """Return the private key; make it if there is none. Errors: ExportKeyUnusable."""
        try:
            if not os.path.lexists(self._path):
                self._make()
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise ExportKeyUnusable(
                        f"{self._path} is open to other users; make it private: chmod 600"
                    )
                seed = b64decode(file.read(MAX_FILE_BYTES).strip(), validate=True)
        except OSError as error:
            raise ExportKeyUnusable(
                f"the key {self._path} cannot be read or made: {error.strerror}"
            ) from error
        except ValueError:
            seed = b""
        if len(seed) != SEED_BYTES:
            raise ExportKeyUnusable(f"{self._path} is no key; move it away, and a new one is made")
        return seed

    def _make(self) -> None:
        """Write a new key, complete or not at all."""
        fresh = self._path.with_name(f".{self._path.name}.{os.urandom(4).hex()}")
        try:
            descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(b64encode(os.urandom(SEED_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            # A link does not replace a key that was made meanwhile.
            with suppress(FileExistsError):
                os.link(fresh, self._path)
        finally:
            fresh.unlink(missing_ok=True)
