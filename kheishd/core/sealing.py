"""Seals: a slot's value under the master key, by AES-256-GCM.

A seal is bound to its slot: the value of one slot does not open as that of another. Pure, with the nonce as
an argument. ``cryptography`` is imported at the first use, because few daemons start with slots.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import Struct

KEY_BYTES: Final = 32
# Random nonces: with 96 bits, a key may seal four billion values before two are likely to be equal.
NONCE_BYTES: Final = 12

_VERSION: Final = 1


class SealedValue(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An encrypted value. ``key_id`` identifies the key that opens it, and tells nothing about the key."""

    version: int
    key_id: str
    nonce: bytes
    ciphertext: bytes


class SealBroken(Exception):
    """A sealed value is not what was sealed for this slot, or a later version sealed it."""


def identify_key(key: bytes) -> str:
    """Return the id of a key: a digest, which is safe because a key is 256 random bits."""
    return hashlib.sha256(b"kheish master key\0" + key).hexdigest()[:16]


def seal(key: bytes, slot_id: str, value: str, nonce: bytes) -> SealedValue:
    """Encrypt the value of a slot."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    ciphertext = AESGCM(key).encrypt(nonce, value.encode(errors="surrogatepass"), _bind(_VERSION, slot_id))
    return SealedValue(version=_VERSION, key_id=identify_key(key), nonce=nonce, ciphertext=ciphertext)


def unseal(key: bytes, slot_id: str, sealed: SealedValue) -> str:
    """Decrypt the value of a slot. Errors: SealBroken."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if sealed.version != _VERSION:
        raise SealBroken("a later version of kheish sealed its value; use that version")
    try:
        content = AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, _bind(sealed.version, slot_id))
    except (InvalidTag, ValueError):
        raise SealBroken("its value was changed on the disk; store it again") from None
    return content.decode(errors="surrogatepass")


def _bind(version: int, slot_id: str) -> bytes:
    """Return the data that a seal authenticates besides the value."""
    return b"kheish slot %d\0%b" % (version, slot_id.encode())
