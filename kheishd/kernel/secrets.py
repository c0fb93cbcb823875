"""Secret slots: values that the daemon keeps encrypted in the store and, while it runs, open in memory.

The record of a slot is a fold of events and says nothing about the value. The sealed value stands in a table
of its own and is written in the same transaction; it is in no event, answer, log or export. :class:`Vault`
opens the values whenever that table changes, so a route or a server uses a new value from its next call on.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from kheishd.config.credentials import is_credential
from kheishd.core.sealing import KEY_BYTES, NONCE_BYTES, SealBroken, SealedValue, identify_key, seal, unseal
from kheishd.core.text.spellings import MIN_SECRET_CHARACTERS
from kheishd.kernel.master_key import MasterKeys, read_master_keys, write_master_keys
from kheishd.records.writer import BY_DAEMON, Origin, StreamWriter
from kheishd.store.tables import META, SECRET_VALUES, SECRETS
from protocol.errors.secret import MasterKeyUnusable, SecretLimit, SecretNotFound, SecretUnreadable
from protocol.errors.store import StoreDamaged
from protocol.events.secret import SecretDeleted, SecretsResealed, SecretStored
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.secret import MAX_SECRETS, MAX_SECRETS_BYTES, MAX_SECRETS_TEXTS
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.records import SecretRecord
    from protocol.objects.secret import SecretKind

log = logging.getLogger("kheishd.secrets")

DIGEST_KEY: Final = "secret_digest_key"
"""The META row with the key of ``Vault.digest``. It is sealed like a value, so a rotation keeps it."""

_NO_SLOT_ID: Final = ""
"""The name that the seal of the digest key is bound to: no slot has it."""

_seal_decoder = msgspec.msgpack.Decoder(SealedValue)


class SlotReader(Protocol):
    """The values of slots, for the daemon's own calls."""

    def read(self, slot_id: str) -> str | None:
        """Return the value of a slot; None if it is empty or cannot be read."""
        ...

    def problem(self, slot_id: str) -> str | None:
        """Return why a slot has no value to read, as the end of a sentence about it; None if it has one."""
        ...


class _OpenSlot(Value, frozen=True):
    """A slot in memory: the seal that was opened, and its value or why there is none.

    ``is_locked``: the key that opens it is not there. ``texts`` are those to redact because of the value.
    """

    sealed: SealedValue | None
    value: str | None = None
    problem: str | None = None
    is_locked: bool = False
    texts: tuple[str, ...] = ()

    @property
    def key_id(self) -> str:
        """The id of the key that sealed the value."""
        return "" if self.sealed is None else self.sealed.key_id


NO_SLOT: Final = _OpenSlot(None)


class Vault:
    """The slots of one store.

    ``learn`` receives each value before anything can use it, to redact it from then on. Without a home there
    is no master key, and no slot can be stored.
    """

    def __init__(
        self,
        home: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        learn: Callable[[Iterable[str]], None] = lambda secrets: None,
    ) -> None:
        self._home = home
        self._environ = environ
        self.learn: Final = learn
        self._state: State | None = None
        self._keys: MasterKeys | None = None
        self._slots: dict[str, _OpenSlot] = {}
        self._digest_key = ""
        self.key_problem: str | None = None

    def open(self, state: State) -> None:
        """Open the slots of a store, now and after each change. Without slots, no key is read."""
        self._state = state
        state.watch(self._refresh, SECRETS.name, SECRET_VALUES.name)

    @property
    def count(self) -> int:
        """The number of slots."""
        return len(self._slots)

    def read(self, slot_id: str) -> str | None:
        """Return the value of a slot; None if it is empty or cannot be read."""
        slot = self._slots.get(slot_id)
        return None if slot is None else slot.value

    def problem(self, slot_id: str) -> str | None:
        """Return why a slot has no value to read, as the end of a sentence about it; None if it has one."""
        slot = self._slots.get(slot_id)
        if slot is None:
            return "is empty; secret.put stores a value"
        return slot.problem if slot.value is None else None

    def values(self) -> Iterator[str]:
        """Yield the open values, and the credentials in those that are JSON: all that has to be redacted."""
        for slot in self._slots.values():
            yield from slot.texts

    def count_texts(self, without: str) -> int:
        """Return the number of texts to redact because of all slots but one."""
        return sum(len(slot.texts) for slot_id, slot in self._slots.items() if slot_id != without)

    def require_room(self, slot_id: str, texts: Collection[str]) -> None:
        """Require room for the texts of a slot among those that are redacted. Errors: SecretLimit."""
        if self.count_texts(slot_id) + len(texts) > MAX_SECRETS_TEXTS:
            raise SecretLimit(
                f"all slots together hold {MAX_SECRETS_TEXTS} credentials at most; delete some slots first"
            )

    def unreadable(self) -> dict[str, str]:
        """Return the problems of the slots whose values cannot be read, or not after a restart, by slot."""
        return {slot_id: slot.problem for slot_id, slot in self._slots.items() if slot.problem is not None}

    def warnings(self) -> Iterator[str]:
        """Yield what a person has to know of the slots, with its remedy."""
        by_problem: dict[str, list[str]] = {}
        for slot_id, problem in sorted(self.unreadable().items()):
            by_problem.setdefault(problem, []).append(slot_id)
        for problem, slot_ids in by_problem.items():
            more = f" and of {len(slot_ids) - 1} more" if len(slot_ids) > 1 else ""
            yield f"the value of the secret slot '{slot_ids[0]}'{more} {problem}"

    def reload_keys(self) -> None:
        """Read the master key again, and open the slots that it opens. It may have been put back."""
        if self._home is None:
            self.key_problem = "this daemon has no home"
        else:
            try:
                self._keys, self.key_problem = read_master_keys(self._home, self._environ), None
            except MasterKeyUnusable as refusal:
                self._keys, self.key_problem = None, refusal.message
        if self._state is not None:
            self._refresh()

    def prepare(self, slot_id: str, *, replaces_unreadable: bool = False, is_trial: bool = False) -> None:
        """Make sure that a slot can be stored: read the master key, and generate the first one.

        Runs on the loop, before the transaction of ``put_slot``. A trial generates nothing. While slots are
        locked, none is stored: sealed by another key than the others, it would be lost with either.
        Errors: MasterKeyUnusable, SecretUnreadable.
        """
        self.reload_keys()
        if self._keys is None:
            raise MasterKeyUnusable(self.key_problem)
        if not replaces_unreadable:
            self._require_readable(slot_id)
        if not self._keys.keys and not is_trial:
            keys = (os.urandom(KEY_BYTES),)
            assert self._home is not None, "keys are read from a home"
            write_master_keys(self._home / "master.key", keys, replaces=False)
            self._keys = MasterKeys(self._keys.path, keys)
            log.info("generated the master key of the secret slots", extra={"path": self._keys.path})
        if not self._digest_key and self._state is not None:
            with self._state.read() as store:
                self._digest_key = self._open_digest_key(store) or os.urandom(KEY_BYTES).hex()

    def _open_digest_key(self, store: Snapshot) -> str | None:
        """Return the stored key of digests; None without one, or if no present master key opens it."""
        stored = store.get(META, DIGEST_KEY)
        for key in () if stored is None or self._keys is None else self._keys.keys:
            with suppress(SealBroken, msgspec.DecodeError):
                return unseal(key, _NO_SLOT_ID, _seal_decoder.decode(stored or b""))
        return None

    def _require_readable(self, slot_id: str) -> None:
        """Require that no slot is locked, and that this one has no problem. Errors: SecretUnreadable."""
        locked = sorted(name for name, slot in self._slots.items() if slot.is_locked)
        if self._slots.get(slot_id, NO_SLOT).problem is not None:
            locked.insert(0, slot_id)
        if locked:
            others = f" (so do {len(locked) - 1} others)" if len(locked) > 1 else ""
            raise SecretUnreadable(
                f"the value of the slot '{locked[0]}' {self._slots[locked[0]].problem}{others}; "
                "to store this value all the same, set 'replace_unreadable'",
                field="$.params.replace_unreadable",
            )

    def put_slot(
        self,
        tx: Transaction,
        slot_id: str,
        value: str,
        kind: SecretKind,
        *,
        origin: Origin = BY_DAEMON,
        is_trial: bool = False,
    ) -> SecretRecord:
        """Store a value in a slot, after ``prepare``. A trial seals nothing, and its transaction is undone.

        Errors: SecretLimit, MasterKeyUnusable.
        """
        if tx.get(SECRETS, slot_id) is None and tx.count(SECRETS) >= MAX_SECRETS:
            raise SecretLimit()
        others = (len(sealed.ciphertext) for (name,), sealed in tx.scan(SECRET_VALUES) if name != slot_id)
        if sum(others) + len(value.encode()) > MAX_SECRETS_BYTES:
            raise SecretLimit(
                f"all values together have {MAX_SECRETS_BYTES} bytes at most; delete some slots first"
            )
        if not is_trial:
            # The current key, not that of the request: a rotation may have been committed in between.
            if self._keys is None or not self._keys.keys:
                raise MasterKeyUnusable(self.key_problem)
            sealed = seal(self._keys.keys[0], slot_id, value, os.urandom(NONCE_BYTES))
            tx.put(SECRET_VALUES, slot_id, value=sealed)
            if self._digest_key and self._open_digest_key(tx) != self._digest_key:
                self._store_digest_key(tx, self._digest_key)
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin)
        writer.append(SecretStored(slot_id=slot_id, kind=kind))
        record = writer.need(SECRETS, slot_id)
        writer.write()
        return record

    def _store_digest_key(self, tx: Transaction, digest_key: str) -> None:
        assert self._keys is not None, "there is a key that seals"
        sealed = seal(self._keys.keys[0], _NO_SLOT_ID, digest_key, os.urandom(NONCE_BYTES))
        tx.put(META, DIGEST_KEY, value=msgspec.msgpack.encode(sealed))

    def delete_slot(self, tx: Transaction, slot_id: str, *, origin: Origin = BY_DAEMON) -> None:
        """Delete a slot and its value. Errors: SecretNotFound."""
        if tx.get(SECRETS, slot_id) is None:
            raise SecretNotFound(f"there is no slot '{slot_id}'", field="$.params.slot_id")
        tx.delete(SECRET_VALUES, slot_id)
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin)
        writer.append(SecretDeleted(slot_id=slot_id))
        writer.write()

    def prepare_rotation(self, *, is_trial: bool = False) -> str:
        """Make the next key the current one, keeping the keys that slots still need; return its file's path.

        From here on every state is readable: the file has the new key and the old one, until
        ``finish_rotation`` runs after the commit. A key that the daemon did not generate is not replaced: the
        operator has put a new one before it. Errors: MasterKeyUnusable, SecretUnreadable.
        """
        self.reload_keys()
        if self._keys is None or self._home is None:
            raise MasterKeyUnusable(self.key_problem)
        unreadable = self.unreadable()
        if not self._keys.keys and not unreadable:
            raise MasterKeyUnusable("there is no master key yet; the first slot generates one")
        if unreadable:
            slot_id, problem = min(unreadable.items())
            raise SecretUnreadable(
                f"the value of the slot '{slot_id}' {problem}; or delete the slot: all are sealed again"
            )
        path, first = self._keys.path, self._keys.keys[0]
        if not self._keys.is_generated:
            if self._find_used_keys() <= {first}:
                raise MasterKeyUnusable(
                    f"{path} is not the daemon's to change: write a new key into its first line, above the "
                    "present one, then rotate; remove the old line afterwards"
                )
        elif not is_trial:
            # The current key may seal a slot in a transaction that runs right now.
            keys = (os.urandom(KEY_BYTES), first, *(self._find_used_keys() - {first}))
            write_master_keys(Path(path), keys, replaces=True)
            self._keys = MasterKeys(path, keys)
        return path

    def reseal(self, tx: Transaction, *, origin: Origin = BY_DAEMON) -> int:
        """Seal all slots by the current key; return their number. Errors: SecretUnreadable."""
        assert self._keys is not None, "a rotation was prepared"
        by_id = {identify_key(key): key for key in self._keys.keys}
        current = self._keys.keys[0]
        key_id = identify_key(current)
        rows = list(tx.scan(SECRET_VALUES))
        for (slot_id,), sealed in rows:
            if sealed.key_id == key_id:
                continue
            try:
                value = unseal(by_id[sealed.key_id], slot_id, sealed)
            except (KeyError, SealBroken):
                raise SecretUnreadable(f"the value of the slot '{slot_id}' cannot be opened") from None
            tx.put(SECRET_VALUES, slot_id, value=seal(current, slot_id, value, os.urandom(NONCE_BYTES)))
        digest_key = self._open_digest_key(tx)
        if digest_key is not None:
            self._store_digest_key(tx, digest_key)
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin)
        writer.append(SecretsResealed(key_id=key_id, slots=len(rows)))
        writer.write()
        return len(rows)

    def finish_rotation(self) -> None:
        """Remove the keys that no slot needs any more from the daemon's own file, after the commit.

        Errors: MasterKeyUnusable; the file then keeps a key too many, which opens nothing.
        """
        assert self._keys is not None, "a rotation was prepared"
        assert self._home is not None, "keys are read from a home"
        own, first = self._home / "master.key", self._keys.keys[0]
        used = self._find_used_keys()
        if self._keys.is_generated:
            keys = (first, *(used - {first}))
            write_master_keys(own, keys, replaces=True)
            self._keys = MasterKeys(self._keys.path, keys)
        elif used <= {first}:
            # The slots have left the key of the home for that of the operator.
            own.unlink(missing_ok=True)
            self.reload_keys()

    def _find_used_keys(self) -> set[bytes]:
        """Return the keys that slots are sealed by, of those that are there."""
        assert self._state is not None, "the vault is open"
        assert self._keys is not None, "there are keys"
        with self._state.read() as store:
            used = {sealed.key_id for _, sealed in store.scan(SECRET_VALUES)}
        return {key for key in self._keys.keys if identify_key(key) in used}

    def digest(self, value: str) -> str:
        """Return a digest that shows whether a value is the same, and is no help to guess it.

        It is keyed by a random key that only the master key opens, and a new master key, too.
        """
        content = value.encode(errors="surrogatepass")
        key = bytes.fromhex(self._digest_key) or os.urandom(KEY_BYTES)
        return hmac.digest(key, b"kheish receipt\0" + content, hashlib.sha256).hex()

    def _refresh(self) -> None:
        """Open the values that have changed, on the loop."""
        assert self._state is not None, "the vault is open"
        try:
            with self._state.read() as store:
                slots = self._open_slots(store) if store.count(SECRETS) else {}
        except (StoreDamaged, msgspec.DecodeError) as error:
            log.error("the secret slots cannot be read: %s", error)
            return
        self._slots = slots
        self.learn(self.values())

    def _open_slots(self, store: Snapshot) -> dict[str, _OpenSlot]:
        if self._keys is None and self.key_problem is None and self._home is not None:
            try:
                self._keys = read_master_keys(self._home, self._environ)
            except MasterKeyUnusable as refusal:
                self.key_problem = refusal.message
        keys = () if self._keys is None else self._keys.keys
        by_id = {identify_key(key): key for key in keys}
        slots = {}
        for (slot_id,), _ in store.scan(SECRETS):
            sealed, previous = store.get(SECRET_VALUES, slot_id), self._slots.get(slot_id, NO_SLOT)
            if previous.sealed == sealed and previous.value is not None and previous.key_id in by_id:
                slots[slot_id] = replace(previous, problem=None, is_locked=False)
                continue
            slot = self._open_slot(slot_id, sealed, by_id)
            if slot.problem is not None and slot.problem != previous.problem:
                log.warning("the value of the secret slot '%s' %s", slot_id, slot.problem)
            if slot.is_locked and previous.sealed == sealed:
                # The key disappeared while the daemon runs: its work continues, and so does the warning.
                slot = replace(slot, value=previous.value, texts=previous.texts)
            slots[slot_id] = slot
        return slots

    def _open_slot(self, slot_id: str, sealed: SealedValue | None, keys: Mapping[str, bytes]) -> _OpenSlot:
        if sealed is None:
            return _OpenSlot(None, problem="is missing in the store; store it again")
        key = keys.get(sealed.key_id)
        if key is not None:
            try:
                value = unseal(key, slot_id, sealed)
                return _OpenSlot(sealed, value, texts=tuple(list_redacted(value)))
            except SealBroken as error:
                return _OpenSlot(sealed, problem=f"cannot be used: {error}")
        if self._keys is None:
            reason = f"{self.key_problem}; correct that and reload"
        elif not keys:
            reason = f"the master key {self._keys.path} is missing; put it back and reload"
        else:
            reason = (
                f"{self._keys.path} does not hold the master key that sealed it (its id is {sealed.key_id}); "
                "add that key as a further line and reload"
            )
        return _OpenSlot(sealed, problem=f"cannot be opened: {reason}", is_locked=True)


def list_redacted(value: str) -> list[str]:
    """Return the texts to redact because of a value: itself, and the credentials in it if it is JSON.

    What has less than ``MIN_SECRET_CHARACTERS`` is left out: it would vanish from ordinary text everywhere.
    """
    texts = {value, value.strip()}
    if value.lstrip()[:1] in ("{", "["):
        try:
            _add_credentials(msgspec.json.decode(value), texts)
        except (msgspec.DecodeError, RecursionError):
            pass
    return [text for text in texts if len(text) >= MIN_SECRET_CHARACTERS]


def _add_credentials(value: Any, texts: set[str]) -> None:
    """Add the texts in a JSON value whose names are those of credentials."""
    if isinstance(value, list):
        for element in value:
            _add_credentials(element, texts)
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and is_credential(name, inner):
                texts.add(inner)
            _add_credentials(inner, texts)
