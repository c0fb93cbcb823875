"""Seals: what was sealed opens for the same slot with the same key, and nothing else does."""

import pytest
from msgspec.structs import replace

from kheishd.core.sealing import KEY_BYTES, NONCE_BYTES, SealBroken, identify_key, seal, unseal

KEY, OTHER = b"k" * KEY_BYTES, b"o" * KEY_BYTES
NONCE = bytes(range(NONCE_BYTES))


@pytest.mark.parametrize(
    "value", ["x", "sk-0123456789", 'with "quotes" and \n lines', "ü\u2028😀", "x" * 65_536]
)
def test_a_seal_opens(value: str) -> None:
    """The value comes back as it was, of any length and in any script; the seal does not contain it."""
    sealed = seal(KEY, "openai", value, NONCE)
    assert unseal(KEY, "openai", sealed) == value
    assert len(value) == 1 or value.encode() not in sealed.ciphertext
    assert (sealed.key_id, sealed.nonce) == (identify_key(KEY), NONCE)


def test_a_broken_seal() -> None:
    """The value of another slot, a changed one, and one under another key or a later version are refused."""
    sealed = seal(KEY, "openai", "sk-0123456789", NONCE)
    changed = bytes((sealed.ciphertext[0] ^ 1,)) + sealed.ciphertext[1:]
    for key, slot_id, seal_ in (
        (KEY, "anthropic", sealed),
        (OTHER, "openai", sealed),
        (KEY, "openai", replace(sealed, ciphertext=changed)),
        (KEY, "openai", replace(sealed, ciphertext=b"")),
        (KEY, "openai", replace(sealed, nonce=b"")),
        (KEY, "openai", replace(sealed, version=2)),
    ):
        with pytest.raises(SealBroken):
            unseal(key, slot_id, seal_)


def test_the_id_of_a_key() -> None:
    """Two keys have two ids, which do not contain the keys."""
    assert identify_key(KEY) != identify_key(OTHER)
    assert len(identify_key(KEY)) == 16
