"""Rights that a replaced store had withdrawn since a backup: all of them, and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kheishd.records.writer import SessionWriter, StreamWriter
from kheishd.store.backup import restore
from kheishd.store.environment import DATA
from kheishd.store.epoch import Withdrawal, put_restore_mark
from kheishd.store.tables import SESSIONS
from kheishd.store.withdrawn import find_withdrawn, make_events, read_replaced
from protocol.events.permission import PermissionsChanged
from protocol.events.session import SessionEnded, SessionUpdated
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.events.workspace import WorkspaceTrusted, WorkspaceUntrusted
from protocol.journal.envelope import DAEMON_STREAM
from protocol.objects.permission import Decision, Grant, Rule, RuleRef
from protocol.objects.token import TokenGrant
from tests.support.histories import session_with_runs
from tests.support.stores import open_inline, update

if TYPE_CHECKING:
    from pathlib import Path

    from kheishd.store.environment import Transaction
    from kheishd.store.writer import Store
    from protocol.journal.line import JournalEvent


def in_daemon(store: Store, *events: JournalEvent) -> None:
    """Append events to the daemon's stream."""

    def change(tx: Transaction) -> None:
        writer = StreamWriter(tx, DAEMON_STREAM)
        writer.append_all(events)
        writer.write()

    update(store, change)


def in_session(store: Store, *events: JournalEvent, session_id: str = "ses_a") -> None:
    """Append events to a session's stream."""

    def change(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=tx.need(SESSIONS, session_id))
        writer.append_all(events)
        writer.write()

    update(store, change)


def rule(tool: str, decision: Decision) -> Rule:
    """Return a rule for a tool."""
    return Rule(tool=tool, decision=decision)


def hold(store: Store, **uses: int | None) -> None:
    """Let the session's record have these grants and no others, with their remaining uses."""
    grants = [
        Grant(grant_id=grant_id, tool="bash", granted_by="uid:0", remaining_uses=remaining)
        for grant_id, remaining in uses.items()
    ]
    update(
        store,
        lambda tx: tx.put(SESSIONS, "ses_a", value=replace(tx.need(SESSIONS, "ses_a"), grants=grants)),
    )


def created(token_id: str) -> TokenCreated:
    """Return the creation of a token."""
    return TokenCreated(token_id=token_id, digest=token_id, grant=TokenGrant(scopes=["read"]))


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Path:
    """Provide a backup of a store with tokens, rules and grants."""
    session_with_runs(store, "ses_a")
    in_daemon(store, created("tok_kept"), created("tok_lost"), created("tok_gone"))
    in_daemon(store, TokenRevoked(token_id="tok_gone"))
    in_daemon(store, PermissionsChanged(add=[rule("a", "allow"), rule("b", "ask"), rule("c", "deny")]))
    in_daemon(store, WorkspaceTrusted(root="/kept"), WorkspaceTrusted(root="/lost"))
    hold(store, gra_kept=None, gra_lost=None, gra_used=3)
    in_session(store, PermissionsChanged(add=[rule("s", "allow")]))
    store.backup(tmp_path / "copy")
    return tmp_path / "copy"


def test_nothing_was_withdrawn(store: Store, copy: Path) -> None:
    """A store that only granted more since the backup has withdrawn nothing."""
    in_daemon(store, created("tok_new"), PermissionsChanged(add=[rule("b", "allow"), rule("d", "allow")]))
    hold(store, gra_kept=None, gra_lost=None, gra_used=3, gra_new=None)
    store.close()
    replaced = read_replaced(store.directory, copy)
    assert replaced is not None
    withdrawn = replaced.withdrawn
    assert (withdrawn.tokens, withdrawn.changes, withdrawn.created_tokens) == ([], [], 1)


def test_every_withdrawn_right_is_found(store: Store, copy: Path) -> None:
    """Revoked tokens and grants, deleted allow rules, and new or stricter rules are found."""
    in_daemon(store, TokenRevoked(token_id="tok_lost"))
    stricter = [rule("b", "deny"), rule("c", "allow"), rule("e", "ask")]
    in_daemon(store, PermissionsChanged(add=stricter, remove=[RuleRef(tool="a")]))
    in_session(store, PermissionsChanged(add=[rule("s", "ask")]))
    in_daemon(store, WorkspaceUntrusted(root="/lost"), WorkspaceTrusted(root="/new"))
    hold(store, gra_kept=None, gra_used=2)
    store.close()
    replaced = read_replaced(store.directory, copy)
    assert replaced is not None
    assert replaced.withdrawn.tokens == ["tok_lost"]
    assert replaced.withdrawn.changes == [
        Withdrawal(
            session_id=None,
            add=[rule("b", "deny"), rule("e", "ask")],
            remove=[RuleRef(tool="a")],
            untrust=["/lost"],
        ),
        Withdrawal(session_id="ses_a", add=[rule("s", "ask")], revoke=["gra_lost", "gra_used"]),
    ]
    (untrusted,) = [
        event for event in make_events(replaced.withdrawn.changes[0]) if isinstance(event, WorkspaceUntrusted)
    ]
    assert untrusted.root == "/lost"


def test_a_store_of_another_version_is_compared_by_its_journal(store: Store, copy: Path) -> None:
    """The tokens of a store with an older schema are compared, its rules and grants are not."""
    in_daemon(store, TokenRevoked(token_id="tok_lost"))
    other = open_inline(copy)
    with other._environment.lmdb.begin(write=True) as txn:
        txn.put(b"schema", b"4", db=other._environment.lmdb.open_db(b"meta", txn))
    with store.read() as replaced, other.read() as restored:
        withdrawn = find_withdrawn(replaced, restored)
    other.close()
    assert (withdrawn.tokens, withdrawn.changes) == (["tok_lost"], None)


def test_a_store_that_crashes_its_reader_is_unreadable(store: Store, copy: Path) -> None:
    """Damage that kills the reading process does not kill the restore."""
    store.close()
    data = store.directory / DATA
    data.write_bytes(data.read_bytes()[: 2 * 4096] + b"\xa5" * (data.stat().st_size - 2 * 4096))
    assert read_replaced(store.directory, copy) is None


def test_a_restored_store_that_never_started_knows_nothing(store: Store, copy: Path) -> None:
    """After two restores in a row, what the first one replaced still counts."""
    in_daemon(store, TokenRevoked(token_id="tok_lost"), PermissionsChanged(remove=[RuleRef(tool="a")]))
    store.close()
    for number in (1, 2):
        restored = restore(copy, store.directory)
        assert restored.kept == store.directory / f"before-restore-{number}"
        withdrawn = restored.mark.withdrawn
        assert withdrawn is not None
        assert (withdrawn.tokens, withdrawn.is_complete) == (["tok_lost"], True)
        assert withdrawn.changes == [Withdrawal(session_id=None, remove=[RuleRef(tool="a")])]


def test_a_damaged_store_leaves_what_was_kept_before(store: Store, copy: Path) -> None:
    """If the store is unreadable, what an earlier one had withdrawn of the same backup stays withdrawn."""
    in_daemon(store, TokenRevoked(token_id="tok_lost"), PermissionsChanged(remove=[RuleRef(tool="a")]))
    store.close()
    restore(copy, store.directory)
    data = store.directory / DATA
    data.write_bytes(data.read_bytes()[: 2 * 4096] + b"\xa5" * 40_000)
    withdrawn = restore(copy, store.directory).mark.withdrawn
    assert withdrawn is not None
    assert (withdrawn.tokens, withdrawn.is_complete) == (["tok_lost"], False)
    assert withdrawn.changes == [Withdrawal(session_id=None, remove=[RuleRef(tool="a")])]


@pytest.mark.parametrize(
    ("properties", "changes", "withdrawn"),
    [
        ({"permission_mode": "bypassPermissions"}, {"permission_mode": "plan"}, {"permission_mode": "plan"}),
        ({"permission_mode": "bypassPermissions"}, {"permission_mode": None}, {"permission_mode": None}),
        ({"permission_mode": None}, {"permission_mode": "default"}, {"permission_mode": "default"}),
        ({"permission_mode": "plan"}, {"permission_mode": "bypassPermissions"}, {}),
        ({"permission_mode": "plan"}, {"permission_mode": None}, {}),
        ({"permission_mode": "default"}, {"permission_mode": None}, {"permission_mode": None}),
        ({"scope": {"mcp": ["a", "b"]}}, {"scope": {"mcp": ["a"]}}, {"scope": {"mcp": ["a"]}}),
        (
            {"credential_scope": {"routes": ["a", "b"]}},
            {"credential_scope": {"routes": ["b"]}},
            {"credential_scope": {"routes": ["b"]}},
        ),
        ({"blocked_tools": ["a"]}, {"blocked_tools": ["a", "b"]}, {"blocked_tools": ["a", "b"]}),
        ({"blocked_tools": ["a"]}, {"blocked_tools": []}, {}),
        ({}, {"profile": "plan"}, {"profile": "plan"}),
        ({"workspace": "/w"}, {"workspace": "/w/inner"}, {"workspace": "/w/inner"}),
        ({"workspace": "/w"}, {"workspace": None}, {"workspace": None}),
        ({"workspace": "/w/inner"}, {"workspace": "/w"}, {}),
        ({"title": "a"}, {"model": "b", "route": "c", "metadata": {"d": 1}}, {}),
    ],
)
def test_narrowed_properties_are_found(
    store: Store,
    tmp_path: Path,
    properties: dict[str, Any],
    changes: dict[str, Any],
    withdrawn: dict[str, Any],
) -> None:
    """What limits a session is withdrawn if it was narrowed, and only then."""
    session_with_runs(store, "ses_a")
    in_session(store, SessionUpdated(changes=properties))
    store.backup(tmp_path / "copy")
    in_session(store, SessionUpdated(changes=changes))
    store.close()
    replaced = read_replaced(store.directory, tmp_path / "copy")
    assert replaced is not None
    expected = [Withdrawal(session_id="ses_a", properties=withdrawn)] if withdrawn else []
    assert replaced.withdrawn.changes == expected


def test_a_missing_store_leaves_what_was_kept_before(store: Store, copy: Path) -> None:
    """Without a store, a kept one counts; its rules only for a backup that is not newer than itself."""
    in_daemon(store, TokenRevoked(token_id="tok_lost"))
    in_session(store, SessionUpdated(changes={"permission_mode": "plan"}))
    store.close()
    restore(copy, store.directory)
    later = open_inline(store.directory)
    in_daemon(later, PermissionsChanged(add=[rule("late", "allow")]))
    newer = store.directory.with_name("newer")
    later.backup(newer)
    later.close()
    narrowed = [Withdrawal(session_id="ses_a", properties={"permission_mode": "plan"})]
    for backup, changes in ((newer, None), (copy, narrowed)):
        (store.directory / DATA).unlink()
        withdrawn = restore(backup, store.directory).mark.withdrawn
        assert withdrawn is not None
        assert (withdrawn.tokens, withdrawn.is_complete) == (["tok_lost"], False)
        assert withdrawn.changes == changes


def test_sessions_that_the_store_in_use_never_had(store: Store, copy: Path, tmp_path: Path) -> None:
    """A session made after one backup and narrowed after the next stays narrow after both are restored."""
    session_with_runs(store, "ses_b")
    store.backup(tmp_path / "later")
    in_session(store, SessionUpdated(changes={"permission_mode": "plan"}), session_id="ses_b")
    store.close()
    mark = restore(copy, store.directory).mark
    in_use = open_inline(store.directory)
    update(in_use, lambda tx: put_restore_mark(tx, replace(mark, pending=False)))
    in_use.close()
    withdrawn = restore(tmp_path / "later", store.directory).mark.withdrawn
    assert withdrawn is not None
    assert withdrawn.changes == [Withdrawal(session_id="ses_b", properties={"permission_mode": "plan"})]


def test_a_restore_that_never_started_is_not_forgotten(store: Store, copy: Path) -> None:
    """What a restore withdrew is withdrawn by the next one, even if the first store was removed meanwhile."""
    in_daemon(store, TokenRevoked(token_id="tok_lost"), PermissionsChanged(add=[rule("e", "deny")]))
    in_session(store, SessionUpdated(changes={"permission_mode": "plan"}), SessionEnded())
    hold(store, gra_kept=None)
    store.close()
    first = restore(copy, store.directory)
    shutil.rmtree(store.directory / "before-restore-1")
    second = restore(copy, store.directory)
    assert first.mark.withdrawn is not None
    assert first.mark.withdrawn.tokens == ["tok_lost"]
    assert [change.is_ended for change in first.mark.withdrawn.changes or ()] == [False, True]
    assert second.mark.withdrawn == first.mark.withdrawn
