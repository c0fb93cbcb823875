"""The vault: values in memory as they are in the store, and keys that are lost, wrong or put back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from kheishd.core.sealing import SealedValue
from kheishd.kernel.master_key import read_master_keys
from kheishd.kernel.secrets import Vault, list_redacted
from kheishd.kernel.state import State, open_state
from kheishd.store.tables import SECRET_VALUES, SECRETS
from protocol.errors.secret import MasterKeyUnusable, SecretNotFound, SecretUnreadable
from tests.support.services import open_vault


class Safe:
    """A vault, its store and its home."""

    def __init__(self, state: State, home: Path) -> None:
        self.state, self.home = state, home
        self.vault = open_vault(state, home)

    @property
    def key(self) -> Path:
        """The file of the generated key."""
        return self.home / "master.key"

    async def put(self, slot_id: str, value: str, *, replaces_unreadable: bool = False) -> None:
        """Store a value."""
        self.vault.prepare(slot_id, replaces_unreadable=replaces_unreadable)
        await self.state.update(lambda tx: self.vault.put_slot(tx, slot_id, value, "opaque"))

    def sealed(self, slot_id: str) -> SealedValue:
        """Return the sealed value of a slot."""
        with self.state.read() as store:
            return store.need(SECRET_VALUES, slot_id)


@asynccontextmanager
async def safe(directory: Path) -> AsyncIterator[Safe]:
    """Provide a vault on a store."""
    async with open_state(directory / "state", version="1") as state:
        yield Safe(state, directory)


async def test_a_value_is_there_after_the_commit_and_a_restart(tmp_path: Path) -> None:
    """The first value makes the key; values are open in memory, sealed in the store, and survive."""
    async with safe(tmp_path) as first:
        assert first.vault.problem("openai") == "is empty; secret.put stores a value"
        assert not first.key.exists()
        await first.put("openai", "sk-first-value")
        await first.put("openai", "sk-second-value")
        await first.put("tiny", "x")
        assert first.vault.read("openai") == "sk-second-value"
        assert first.vault.problem("openai") is None
        assert list(first.vault.values()) == ["sk-second-value"]
        with first.state.read() as store:
            assert store.need(SECRETS, "openai").revision == 2
    assert b"sk-second" not in b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    async with safe(tmp_path) as second:
        assert (second.vault.read("openai"), second.vault.read("tiny")) == ("sk-second-value", "x")
        await second.state.update(lambda tx: second.vault.delete_slot(tx, "openai"))
        assert second.vault.read("openai") is None
        with pytest.raises(SecretNotFound):
            await second.state.update(lambda tx: second.vault.delete_slot(tx, "openai"))


async def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    """A trial neither makes a key nor seals a value."""
    async with safe(tmp_path) as house:
        house.vault.prepare("a", is_trial=True)
        assert not house.key.exists()


async def test_a_lost_key(tmp_path: Path) -> None:
    """Values without their key stay as they are, and no other key is made unless told to."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-first-value")
        sealed = house.sealed("a")
    kept = tmp_path / "master.key"
    kept.rename(tmp_path / "kept")
    async with safe(tmp_path) as house:
        assert house.vault.read("a") is None
        assert "is missing; put it back" in (house.vault.problem("a") or "")
        for slot_id in ("a", "b"):
            with pytest.raises(SecretUnreadable, match="'a' cannot be opened"):
                await house.put(slot_id, "sk-other-value")
        assert not house.key.exists()
        assert house.sealed("a") == sealed
        (tmp_path / "kept").rename(kept)
        house.vault.reload_keys()
        assert house.vault.read("a") == "sk-first-value"


async def test_a_key_that_disappears(tmp_path: Path) -> None:
    """A running daemon keeps the values it has, makes no other key, and warns."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-first-value")
        house.key.rename(tmp_path / "kept")
        with pytest.raises(SecretUnreadable, match="is missing; put it back"):
            await house.put("b", "sk-other-value")
        assert (house.vault.read("a"), house.vault.problem("a")) == ("sk-first-value", None)
        assert list(house.vault.unreadable()) == ["a"]
        (tmp_path / "kept").rename(house.key)
        await house.put("b", "sk-other-value")
        assert house.vault.unreadable() == {}


async def test_a_wrong_key(tmp_path: Path) -> None:
    """A slot may be replaced on request; the old key, as a further line, opens the others again."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        await house.put("b", "sk-b-value")
    old = (tmp_path / "master.key").read_bytes()
    (tmp_path / "master.key").unlink()
    async with safe(tmp_path) as house:
        await house.put("a", "sk-new-value", replaces_unreadable=True)
        assert house.vault.read("a") == "sk-new-value"
        assert list(house.vault.unreadable()) == ["b"]
        assert house.sealed("b").key_id in (house.vault.problem("b") or "")
        house.key.write_bytes(house.key.read_bytes() + old)
        house.vault.reload_keys()
        assert (house.vault.read("a"), house.vault.read("b")) == ("sk-new-value", "sk-b-value")


async def test_a_bad_key_file(tmp_path: Path) -> None:
    """The problem of the file is that of its slots, and nothing is stored."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        house.key.chmod(0o644)
        with pytest.raises(MasterKeyUnusable, match="chmod 600"):
            await house.put("b", "sk-b-value", replaces_unreadable=True)
        assert house.vault.read("a") == "sk-a-value"
    async with safe(tmp_path) as house:
        assert "chmod 600" in (house.vault.problem("a") or "")


async def test_a_changed_seal(tmp_path: Path) -> None:
    """A value that was moved or changed on the disk is refused; other slots work, and it can be replaced."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        await house.put("b", "sk-b-value")
        moved = house.sealed("b")
        await house.state.update(lambda tx: tx.put(SECRET_VALUES, "a", value=moved))
        assert "was changed on the disk" in (house.vault.problem("a") or "")
        await house.put("b", "sk-b-newer")
        with pytest.raises(SecretUnreadable, match="'a' cannot be used"):
            await house.put("a", "sk-a-newer")
        await house.put("a", "sk-a-newer", replaces_unreadable=True)
        assert (house.vault.read("a"), house.vault.read("b")) == ("sk-a-newer", "sk-b-newer")
        await house.state.update(lambda tx: tx.delete(SECRET_VALUES, "a"))
        assert house.vault.problem("a") == "is missing in the store; store it again"
        later = replace(house.sealed("b"), version=9)
        await house.state.update(lambda tx: tx.put(SECRET_VALUES, "b", value=later))
        assert "a later version" in (house.vault.problem("b") or "")


async def test_a_vault_without_a_home(tmp_path: Path) -> None:
    """Nothing can be stored, and every slot is empty."""
    vault = Vault()
    assert vault.read("a") is None
    with pytest.raises(MasterKeyUnusable):
        vault.prepare("a")


async def test_a_digest_is_no_help_to_guess(tmp_path: Path) -> None:
    """It is equal for equal values, and depends on the master key."""
    digests = []
    for name in ("one", "two"):
        async with safe(tmp_path / name) as house:
            await house.put("a", "sk-a-value")
            assert house.vault.digest("1234") == house.vault.digest("1234") != house.vault.digest("1235")
            digests.append(house.vault.digest("1234"))
        assert read_master_keys(tmp_path / name, {}).keys
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("short", []),
        ("long enough", ["long enough"]),
        (" padded-value\n", [" padded-value\n", "padded-value"]),
        ("x" * 8, ["x" * 8]),
        (
            '{"access_token": "first-token", "n": [1], "nested": [{"client_secret": "the-secret"}]}',
            ["first-token", "the-secret"],
        ),
        ("{not json at all}", []),
        ("[" * 100_000, []),
    ],
)
def test_list_redacted(value: str, texts: list[str]) -> None:
    """A value is redacted as a whole, without surrounding space, and by the credentials in it."""
    whole = [value] if len(value) >= 8 else []
    assert sorted(list_redacted(value)) == sorted({*whole, *texts})
