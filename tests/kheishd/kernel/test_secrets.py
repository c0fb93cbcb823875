"""The vault: values in memory as they are in the store, and keys that are lost, wrong or put back."""

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.core.sealing import SealedValue
from kheishd.kernel.master_key import read_master_keys, write_master_keys
from kheishd.kernel.secrets import Vault, list_redacted
from kheishd.kernel.state import State, open_state
from kheishd.store.environment import Transaction
from kheishd.store.tables import SECRET_VALUES, SECRETS
from protocol.errors.secret import MasterKeyUnusable, SecretLimit, SecretNotFound, SecretUnreadable
from protocol.limits.secret import MAX_SECRETS_BYTES, MAX_SECRETS_TEXTS
from tests.support.services import open_vault


class Safe:
    """A vault, its store and its home."""

    def __init__(self, state: State, home: Path, environ: dict[str, str]) -> None:
        self.state, self.home = state, home
        self.vault = open_vault(state, home, environ)

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
async def safe(directory: Path, **environ: str) -> AsyncIterator[Safe]:
    """Provide a vault on a store."""
    async with open_state(directory / "state", version="1") as state:
        yield Safe(state, directory, environ)


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


async def rotate(house: Safe) -> int:
    """Rotate the key as a request does."""
    house.vault.prepare_rotation()
    slots = await house.state.update(house.vault.reseal)
    house.vault.finish_rotation()
    return slots


async def test_a_rotation(tmp_path: Path) -> None:
    """All slots are sealed by a new key, the old one is gone, and values stay as they were."""
    async with safe(tmp_path) as house:
        with pytest.raises(MasterKeyUnusable, match="no master key yet"):
            house.vault.prepare_rotation()
        await house.put("a", "sk-a-value")
        await house.put("b", "sk-b-value")
        old, sealed = house.key.read_bytes(), house.sealed("a")
        assert await rotate(house) == 2
        assert old not in house.key.read_bytes()
        assert house.sealed("a").key_id == house.sealed("b").key_id != sealed.key_id
        assert house.vault.read("a") == "sk-a-value"
        await house.put("b", "sk-b-newer")
        assert await rotate(house) == 2
        assert len(house.key.read_bytes().splitlines()) == 1
    async with safe(tmp_path) as house:
        assert (house.vault.read("a"), house.vault.read("b")) == ("sk-a-value", "sk-b-newer")


async def test_a_crash_during_a_rotation(tmp_path: Path) -> None:
    """Before the commit and after it, all slots open, and the next rotation tidies up."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        house.vault.prepare_rotation(is_trial=True)
        assert len(house.key.read_bytes().splitlines()) == 1
        house.vault.prepare_rotation()
    (tmp_path / ".master.key.0123abcd").write_bytes(b"half a file")
    async with safe(tmp_path) as house:
        assert house.vault.read("a") == "sk-a-value"
        await house.put("b", "sk-b-value")
        house.vault.prepare_rotation()
        await house.state.update(house.vault.reseal)
    async with safe(tmp_path) as house:
        assert (house.vault.read("a"), house.vault.read("b")) == ("sk-a-value", "sk-b-value")
        await rotate(house)
        assert len(house.key.read_bytes().splitlines()) == 1
        assert not (tmp_path / ".master.key.0123abcd").exists()
    async with safe(tmp_path) as house:
        assert (house.vault.read("a"), house.vault.read("b")) == ("sk-a-value", "sk-b-value")


class Killed(BaseException):
    """The end of a daemon at one of its steps."""


class Killer:
    """Counts the steps that change the disk, and ends the daemon before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool) -> None:
        self.steps = 0
        self._step, self._after = step, after
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "rename"), (State, "update")):
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name), is_async=owner is State))

    def _wrap(self, function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
        def count() -> bool:
            self.steps += 1
            if self.steps == self._step and not self._after:
                raise Killed
            return self.steps == self._step

        def call(*arguments: Any, **named: Any) -> Any:
            is_last = count()
            result = function(*arguments, **named)
            if is_last:
                raise Killed
            return result

        async def call_async(*arguments: Any, **named: Any) -> Any:
            is_last = count()
            result = await function(*arguments, **named)
            if is_last:
                raise Killed
            return result

        return call_async if is_async else call


async def test_a_kill_at_any_step_of_a_rotation(tmp_path: Path) -> None:
    """Wherever the daemon ends, the next one opens every slot, stores another, and rotates again."""
    # The first rotation is not ended: it counts the steps.
    step, steps = 0, 0
    while step <= steps:
        for after in (False, True):
            home = tmp_path / f"{step}-{after}"
            home.mkdir()
            async with safe(home) as house:
                await house.put("a", "sk-a-value")
                await house.put("b", "sk-b-value")
                digest = house.vault.digest("1234")
                with pytest.MonkeyPatch.context() as patch:
                    killer = Killer(patch, step, after=after)
                    with suppress(Killed):
                        await rotate(house)
                steps = max(steps, killer.steps)
            async with safe(home) as house:
                assert house.vault.unreadable() == {}
                assert (house.vault.read("a"), house.vault.read("b")) == ("sk-a-value", "sk-b-value")
                await house.put("c", "sk-c-value")
                assert house.vault.digest("1234") == digest
                assert await rotate(house) == 3
                assert len(house.key.read_bytes().splitlines()) == 1
            async with safe(home) as house:
                values = [house.vault.read(slot_id) for slot_id in ("a", "b", "c")]
                assert values == ["sk-a-value", "sk-b-value", "sk-c-value"]
        step += 1
    assert steps == 7, "two files, each with three steps, and a commit"


def lose(key: Path) -> None:
    """Delete the key."""
    key.unlink()


def replace_key(key: Path) -> None:
    """Put a valid key of another home in its place."""
    key.unlink()
    write_master_keys(key, [b"3" * 32], replaces=False)


def garble(key: Path) -> None:
    """Write something that is no key."""
    key.write_text("my key\n")


def empty(key: Path) -> None:
    """Truncate the file."""
    key.write_text("")


def open_up(key: Path) -> None:
    """Let other users read it."""
    key.chmod(0o644)


def make_directory(key: Path) -> None:
    """Put a directory in its place, which cannot be read."""
    key.unlink()
    key.mkdir()


def link_elsewhere(key: Path) -> None:
    """Put a link in its place."""
    key.rename(key.parent / "elsewhere")
    key.symlink_to(key.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (lose, "master.key is missing; put it back and reload"),
        (replace_key, "does not hold the master key that sealed it"),
        (garble, "line 1 of the master key .* is no key; expected 32 random bytes in base64"),
        (empty, "master.key is empty; expected 32 random bytes"),
        (open_up, "is open to other users; make it private: chmod 600"),
        (make_directory, "master.key cannot be read: Is a directory"),
        (link_elsewhere, "master.key cannot be read: Too many levels of symbolic links"),
    ],
)
async def test_a_bad_day_of_the_key(tmp_path: Path, damage: Callable[[Path], None], remedy: str) -> None:
    """A running daemon works on and warns; the next one names the remedy, which brings everything back."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        content = house.key.read_bytes()
        damage(house.key)
        house.vault.reload_keys()
        assert house.vault.read("a") == "sk-a-value"
        (warning,) = house.vault.warnings()
        assert re.search(remedy, warning)
        for refused in (house.put("b", "sk-b-value"), rotate(house)):
            with pytest.raises((MasterKeyUnusable, SecretUnreadable), match=remedy):
                await refused
    async with safe(tmp_path) as house:
        assert house.vault.read("a") is None
        assert re.search(remedy, house.vault.problem("a") or "")
        with pytest.raises((MasterKeyUnusable, SecretUnreadable), match=remedy):
            await house.put("b", "sk-b-value")
        if house.key.is_dir() and not house.key.is_symlink():
            house.key.rmdir()
        house.key.unlink(missing_ok=True)
        house.key.write_bytes(content)
        house.key.chmod(0o600)
        house.vault.reload_keys()
        assert (house.vault.read("a"), list(house.vault.warnings())) == ("sk-a-value", [])
        await house.put("b", "sk-b-value")
        assert await rotate(house) == 2


async def test_a_value_stored_during_a_rotation(tmp_path: Path) -> None:
    """A value that was prepared before the rotation and is committed after it is sealed by the new key."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        house.vault.prepare("b")
        await rotate(house)
        await house.state.update(lambda tx: house.vault.put_slot(tx, "b", "sk-b-value", "opaque"))
        assert house.sealed("b").key_id == house.sealed("a").key_id
    async with safe(tmp_path) as house:
        assert house.vault.unreadable() == {}


async def test_no_rotation_without_every_value(tmp_path: Path) -> None:
    """A slot that cannot be opened keeps the key as it is."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        await house.put("b", "sk-b-value")
        moved = house.sealed("b")
        await house.state.update(lambda tx: tx.put(SECRET_VALUES, "a", value=moved))
        key = house.key.read_bytes()
        with pytest.raises(SecretUnreadable, match="'a' cannot be used"):
            house.vault.prepare_rotation()
        with pytest.raises(SecretUnreadable, match="'a' cannot be opened"):
            await house.state.update(lambda tx: house.vault.reseal(replaced(tx, house)))
        assert house.key.read_bytes() == key
        assert list(house.vault.warnings())


def replaced(tx: Transaction, house: Safe) -> Transaction:
    """Give one slot a seal of an unknown key, in a transaction that will be undone."""
    tx.put(SECRET_VALUES, "a", value=replace(house.sealed("b"), key_id="0" * 16))
    return tx


async def test_a_key_of_the_operator(tmp_path: Path) -> None:
    """The operator's key takes over from the home's; a new one goes above the old one; neither is written."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
    file = tmp_path / "operator.key"
    write_master_keys(file, [b"1" * 32], replaces=False)
    async with safe(tmp_path, KHEISH_MASTER_KEY_FILE=str(file)) as house:
        assert house.vault.read("a") == "sk-a-value"
        assert await rotate(house) == 1
        assert not house.key.exists()
        with pytest.raises(MasterKeyUnusable, match="write a new key into its first line"):
            house.vault.prepare_rotation()
        write_master_keys(file, [b"2" * 32, b"1" * 32], replaces=True)
        content = file.read_bytes()
        assert await rotate(house) == 1
        assert file.read_bytes() == content
    write_master_keys(file, [b"2" * 32], replaces=True)
    async with safe(tmp_path, KHEISH_MASTER_KEY_FILE=str(file)) as house:
        assert house.vault.read("a") == "sk-a-value"
        assert not house.key.exists()


async def test_the_limit_of_all_values(tmp_path: Path) -> None:
    """All values together have a limit; replacing one does not count it twice."""
    async with safe(tmp_path) as house:
        for number in range(4):
            await house.put(f"s{number}", str(number) * (MAX_SECRETS_BYTES // 4 - 16))
        await house.put("s0", "y" * (MAX_SECRETS_BYTES // 4 - 16))
        with pytest.raises(SecretLimit, match="all values together"):
            await house.put("more", "z" * 100)


async def test_a_vault_without_a_home(tmp_path: Path) -> None:
    """Nothing can be stored, and every slot is empty."""
    vault = Vault()
    assert vault.read("a") is None
    with pytest.raises(MasterKeyUnusable):
        vault.prepare("a")


async def test_a_digest_is_no_help_to_guess(tmp_path: Path) -> None:
    """It is equal for equal values, in each home another one, and of no use without the master key."""
    digests = []
    for name in ("one", "two"):
        async with safe(tmp_path / name) as house:
            await house.put("a", "sk-a-value")
            assert house.vault.digest("1234") == house.vault.digest("1234") != house.vault.digest("1235")
            digests.append(house.vault.digest("1234"))
        assert read_master_keys(tmp_path / name, {}).keys
    assert digests[0] != digests[1]
    (tmp_path / "one/master.key").unlink()
    async with safe(tmp_path / "one") as house:
        assert house.vault.digest("1234") not in digests


async def test_a_digest_stays_after_a_rotation_and_a_restart(tmp_path: Path) -> None:
    """The key of digests is sealed by the master key, so a new master key opens it, too."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        digest = house.vault.digest("1234")
        await rotate(house)
        assert house.vault.digest("1234") == digest
    async with safe(tmp_path) as house:
        house.vault.prepare("a")
        assert house.vault.digest("1234") == digest


async def test_a_lost_digest_key_is_made_anew(tmp_path: Path) -> None:
    """Without the key that seals it, later digests are others, and stay so after a restart."""
    async with safe(tmp_path) as house:
        await house.put("a", "sk-a-value")
        digest = house.vault.digest("1234")
    (tmp_path / "master.key").unlink()
    async with safe(tmp_path) as house:
        await house.put("a", "sk-b-value", replaces_unreadable=True)
        later = house.vault.digest("1234")
        assert later != digest
        assert await rotate(house) == 1
    async with safe(tmp_path) as house:
        house.vault.prepare("a")
        assert house.vault.digest("1234") == later


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


async def test_room_for_texts(tmp_path: Path) -> None:
    """All slots together have a limit of texts to redact; the slot that is replaced does not count."""
    async with safe(tmp_path) as one:
        await one.put("a", "sk-first-value")
        one.vault.require_room("a", ["text"] * MAX_SECRETS_TEXTS)
        one.vault.require_room("b", ["text"] * (MAX_SECRETS_TEXTS - 1))
        with pytest.raises(SecretLimit, match="delete some slots first"):
            one.vault.require_room("b", ["text"] * MAX_SECRETS_TEXTS)
