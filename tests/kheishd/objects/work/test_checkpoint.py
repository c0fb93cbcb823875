"""Checkpoints over the socket: one test per outcome; and their limits."""

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.os.files.tools import Files
from kheishd.kernel.hook import CheckpointDraft, FileWrite, SavedFile, Stale
from kheishd.objects.work import checkpoint as rules
from kheishd.objects.work.checkpoint import prepare_checkpoint, save_checkpoint
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.contents import read_total
from kheishd.store.environment import Transaction
from kheishd.store.tables import FILE_CHECKPOINTS, FILE_CONTENTS, SESSIONS
from protocol.errors.checkpoint import CheckpointNotFound, FilesChanged, NothingToRestore, RestoreTooLarge
from protocol.errors.session import SessionBusy, WorkspaceForbidden, WorkspaceMissing
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeMissing
from tests.support.household import Household, household, refusal_of, require_session_not_found
from tests.support.runtimes import change_runtime


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a run worker, with a session ``s``; tokens work."""
    (tmp_path / "w").mkdir()
    hooks = CompositeHook((Files(),))
    async with household(tmp_path, work=False, tcp=True, hooks=hooks) as house:
        await house.call("session.create", session_id="s")
        yield house


def read(path: Path) -> bytes:
    """Return the content of a file."""
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Write a file."""
    path.write_bytes(content)


def move(directory: Path) -> None:
    """Rename a directory."""
    directory.rename(directory.with_name("elsewhere"))


def folder_of(path: Path) -> str:
    """Return the directory of a file, with its links resolved."""
    return str(path.parent.resolve())


def digest(content: bytes | None) -> str | None:
    """Return the digest of a content."""
    return None if content is None else sha256(content).hexdigest()


async def change(
    house: Household, path: Path, before: bytes | None, after: bytes | None, number: int = 1, **draft: Any
) -> str:
    """Change a file as a call does, with a checkpoint; return its id."""
    saved = SavedFile(path.name, before, digest(before), 0o644, digest(after))
    name = f"chk_{number}"
    prepared = await prepare_checkpoint(
        house.state.update, name, CheckpointDraft(folder_of(path), [saved], **draft), tool="edit"
    )

    def save(tx: Transaction) -> None:
        save_checkpoint(SessionWriter(tx, "s", session=tx.get(SESSIONS, "s")), prepared)

    await house.state.update(save)
    if after is not None:
        write(path, after)
    return name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Provide the path of a file in a workspace."""
    return tmp_path / "w" / "a"


def require_sound(house: Household) -> None:
    """Require that the doctor finds nothing."""
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_checkpoint_list_ok(house: Household, file: Path) -> None:
    """Checkpoints are listed newest first, page by page, without contents."""
    await change(house, file, None, b"1", 1)
    await change(house, file, b"1", b"2", 2, note="not all")
    page = await house.call("checkpoint.list", session_id="s", limit=1)
    assert (page["checkpoints"][0]["checkpoint_id"], page["checkpoints"][0]["note"]) == ("chk_2", "not all")
    rest = await house.call("checkpoint.list", session_id="s", after=page["next"])
    assert [row["checkpoint_id"] for row in rest["checkpoints"]] == ["chk_1"]
    require_sound(house)


async def test_checkpoint_list_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "checkpoint.list")


async def test_checkpoint_diff_ok(house: Household, file: Path) -> None:
    """A diff is from before the selected changes until now."""
    await change(house, file, b"one\n", b"two\n", 1)
    await change(house, file, b"two\n", b"three\n", 2)
    shown = await house.call("checkpoint.diff", session_id="s")
    assert "-two\n+three\n" in shown["text"]
    shown = await house.call("checkpoint.diff", session_id="s", since=0)
    assert "-one\n+three\n" in shown["text"]
    assert shown["checkpoints"] == ["chk_1", "chk_2"]
    write(file, b"one\n")
    assert (await house.call("checkpoint.diff", session_id="s", checkpoint_id="chk_1"))["files"] == []


async def test_checkpoint_diff_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "checkpoint.diff")


async def test_checkpoint_diff_checkpoint_not_found(house: Household) -> None:
    """The session has no checkpoint of this id."""
    refusal = await house.refusal_of("checkpoint.diff", session_id="s", checkpoint_id="chk_9")
    assert (type(refusal), refusal.field) == (CheckpointNotFound, "$.params.checkpoint_id")


async def test_checkpoint_diff_nothing_to_restore(house: Household) -> None:
    """No tool has changed a file."""
    assert isinstance(await house.refusal_of("checkpoint.diff", session_id="s"), NothingToRestore)


async def forbid(house: Household, file: Path) -> None:
    """Save a change in a directory that is the daemon's own from then on."""
    await change(house, file, None, b"1")
    own = folder_of(file)
    runtime = house.holder.current()
    house.holder.replace(
        change_runtime(runtime, generation=2, workspaces=Workspaces(f"{own}/workspace", own))
    )


async def test_checkpoint_diff_workspace_forbidden(house: Household, file: Path) -> None:
    """Agents may no longer work in the workspace of the change."""
    await forbid(house, file)
    assert isinstance(await house.refusal_of("checkpoint.diff", session_id="s"), WorkspaceForbidden)


async def test_checkpoint_diff_workspace_missing(house: Household, file: Path) -> None:
    """The workspace of the change is gone."""
    await change(house, file, None, b"1")
    move(file.parent)
    assert isinstance(await house.refusal_of("checkpoint.diff", session_id="s"), WorkspaceMissing)


async def restore(house: Household, **params: Any) -> Any:
    """Restore files of the session."""
    return await house.call("checkpoint.restore", session_id="s", **params)


async def test_checkpoint_restore_ok(house: Household, file: Path) -> None:
    """Undo, redo and undo again; a dry run changes nothing."""
    await change(house, file, b"1", b"2")
    head = house.head()
    assert (await restore(house, check=True))["files"] == [{"path": "a", "action": "written"}]
    assert (house.head(), read(file)) == (head, b"2")
    for params, content in (({}, b"1"), ({"redo": True}, b"2"), ({}, b"1")):
        await restore(house, **params)
        assert read(file) == content
    kinds = await house.kinds(types=["checkpoint_saved", "checkpoint_reverted"])
    assert kinds == ["checkpoint_saved"] + ["checkpoint_saved", "checkpoint_reverted"] * 3
    require_sound(house)


async def test_a_restore_that_a_crash_interrupted(
    house: Household, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files tell how far it came: the next one finishes it, or does it."""
    await change(house, file, b"1", b"2")

    async def die(self: object, workspace: str, writes: list[FileWrite], key: str) -> None:
        raise Stale("the daemon dies")

    with monkeypatch.context() as patch:
        patch.setattr(Files, "write", die)
        assert isinstance(await house.refusal_of("checkpoint.restore", session_id="s"), FilesChanged)
    write(file, b"1")
    restored = await restore(house)
    assert restored["files"] == [{"path": "a", "action": "unchanged"}]
    await restore(house, redo=True)
    assert read(file) == b"2"
    require_sound(house)


async def test_checkpoint_restore_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "checkpoint.restore")


async def test_checkpoint_restore_scope_missing(house: Household) -> None:
    """It takes a person who may approve edits."""
    client = await house.connect_limited(scopes=["read", "converse"])
    assert isinstance(await refusal_of(client, "checkpoint.restore", session_id="s"), ScopeMissing)


async def test_checkpoint_restore_session_busy(house: Household, file: Path) -> None:
    """While a run of the session is open, its agent may be changing files."""
    await change(house, file, b"1", b"2")
    await house.call("session.send", session_id="s", content="x")
    assert isinstance(await house.refusal_of("checkpoint.restore", session_id="s"), SessionBusy)
    assert read(file) == b"2"


async def test_checkpoint_restore_checkpoint_not_found(house: Household) -> None:
    """The session has no checkpoint of this id."""
    refusal = await house.refusal_of("checkpoint.restore", session_id="s", checkpoint_id="chk_9")
    assert isinstance(refusal, CheckpointNotFound)


async def test_checkpoint_restore_nothing_to_restore(house: Household, file: Path) -> None:
    """There is no change, no undo, or the change was reverted already."""
    for params in ({}, {"redo": True}, {"since": 0}):
        refusal = await house.refusal_of("checkpoint.restore", session_id="s", **params)
        assert isinstance(refusal, NothingToRestore)
    name = await change(house, file, b"1", b"2")
    await restore(house)
    refusal = await house.refusal_of("checkpoint.restore", session_id="s", checkpoint_id=name)
    assert isinstance(refusal, NothingToRestore)


async def test_checkpoint_restore_files_changed(house: Household, file: Path) -> None:
    """A file that others changed, also between two changes, is kept unless forced."""
    await change(house, file, b"1", b"2", 1)
    await change(house, file, b"of a person", b"3", 2)
    refusal = await house.refusal_of("checkpoint.restore", session_id="s", since=0)
    assert isinstance(refusal, FilesChanged)
    assert "changed since by others: a;" in refusal.message
    assert (await restore(house, since=0, check=True))["files"] == [{"path": "a", "action": "changed"}]
    await restore(house, since=0, force=True)
    assert read(file) == b"1"


async def test_checkpoint_restore_restore_too_large(
    house: Household, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files whose contents cannot all be kept are not replaced, forced or not: there would be no redo."""
    other = file.with_name("b")
    await change(house, file, b"1", b"2", 1)
    await change(house, other, b"1", b"x" * 200, 2)
    for name, limit in (("MAX_CHECKPOINT_FILES", 1), ("MAX_CHECKPOINT_CONTENT_BYTES", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(rules, name, limit)
            for force in (False, True):
                refusal = await house.refusal_of("checkpoint.restore", session_id="s", since=0, force=force)
                assert isinstance(refusal, RestoreTooLarge)
    assert (read(file), read(other)) == (b"2", b"x" * 200)
    await restore(house, since=0)
    assert (read(file), read(other)) == (b"1", b"1")
    require_sound(house)


async def test_checkpoint_restore_workspace_forbidden(house: Household, file: Path) -> None:
    """Agents may no longer work in the workspace of the change."""
    await forbid(house, file)
    assert isinstance(await house.refusal_of("checkpoint.restore", session_id="s"), WorkspaceForbidden)


async def test_checkpoint_restore_workspace_missing(house: Household, file: Path) -> None:
    """The workspace of the change is gone."""
    await change(house, file, None, b"1")
    move(file.parent)
    assert isinstance(await house.refusal_of("checkpoint.restore", session_id="s"), WorkspaceMissing)


async def test_checkpoint_restore_storage_full(
    house: Household, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the contents that it replaces, nothing is restored."""
    await change(house, file, b"1", b"2")

    async def refuse(*_: object, **__: object) -> None:
        raise StorageFull

    monkeypatch.setattr(rules, "prepare_checkpoint", refuse)
    assert isinstance(await house.refusal_of("checkpoint.restore", session_id="s"), StorageFull)
    assert read(file) == b"2"


async def test_the_oldest_checkpoints_are_dropped(
    house: Household, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session keeps a number of them and of bytes, the home a number of bytes; contents go with them."""
    monkeypatch.setattr(rules, "MAX_SESSION_CHECKPOINTS", 2)
    for number in range(1, 5):
        await change(house, file, b"%d" % number, b"", number)
    with house.state.read() as store:
        assert [key[0] for key, _ in store.scan(FILE_CHECKPOINTS)] == ["chk_3", "chk_4"]
        assert (store.count(FILE_CONTENTS), read_total(store)) == (2, 2)
    monkeypatch.setattr(rules, "MAX_SESSION_CHECKPOINT_BYTES", 10)
    await change(house, file, b"x" * 11, b"", 5)
    monkeypatch.setattr(rules, "MAX_HOME_CHECKPOINT_BYTES", 5)
    await change(house, file, b"y" * 4, b"", 6)
    with house.state.read() as store:
        assert [key[0] for key, _ in store.scan(FILE_CHECKPOINTS)] == ["chk_6"]
        assert read_total(store) == 4
    require_sound(house)


async def test_the_parts_of_a_large_change(house: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond the limits are counted, and contents beyond them are not saved."""
    monkeypatch.setattr(rules, "MAX_CHECKPOINT_FILES", 2)
    monkeypatch.setattr(rules, "MAX_CHECKPOINT_CONTENT_BYTES", 100_000)
    large = b"x" * 90_000
    files = [SavedFile(name, large, digest(large)) for name in "abc"]
    prepared = await prepare_checkpoint(house.state.update, "chk_1", CheckpointDraft("/w", files, more=1))
    assert [(file.path, file.bytes) for file in prepared.event.files] == [("a", 90_000), ("b", 0)]
    assert "too large together" in prepared.event.files[1].problem
    assert (prepared.event.more, prepared.contents) == (2, [])
