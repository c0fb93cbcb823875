"""Health warnings: each names its object and a remedy."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from kheishd.kernel.mcp import McpHolder, ServerSpec, view_of
from kheishd.kernel.meter import Meter
from kheishd.objects.node.health import (
    MAX_STALE_WARNINGS,
    RECENT_MAIL_MS,
    STALE_MS,
    find_failed_hooks,
    find_failed_servers,
    find_meter_warnings,
    find_stale_runs,
    find_store_warnings,
    find_undelivered_mail,
    find_waits,
    format_warning,
    split_warning,
)
from kheishd.store.environment import Transaction
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    MAIL,
    MAIL_BY_STATE,
    MAILBOXES,
    RUNS,
)
from kheishd.store.writer import Store
from protocol.limits.units import GIB
from protocol.objects.daemon import Disk
from protocol.objects.mailbox import Mailbox
from protocol.objects.mcp import McpServerSettings
from tests.support.histories import rich_history, session_with_runs, update


def disk(**sizes: int) -> Disk:
    """Return the disk use of a store in good order."""
    fields: dict[str, Any] = {"path": "/s", "used_bytes": 1, "file_bytes": 2, "free_bytes": GIB}
    return Disk(**(fields | {"map_bytes": 1 << 40} | sizes))


@pytest.mark.parametrize(
    ("sizes", "codes"),
    [
        ({}, []),
        ({"free_bytes": 0}, ["disk_nearly_full"]),
        ({"file_bytes": 3 * GIB}, ["store_growth"]),
        ({"used_bytes": 900, "map_bytes": 1000}, ["store_nearly_full"]),
    ],
)
def test_store(store: Store, sizes: dict[str, int], codes: list[str]) -> None:
    """A full disk, much free space in the file and a full map are reported."""
    assert [warning.code for warning in find_store_warnings(store, disk(**sizes))] == codes


def test_meter() -> None:
    """A slow loop, a clock that was set and a failed backup are reported."""
    meter = Meter()
    assert list(find_meter_warnings(meter, 5.0)) == []
    meter.count_slow_round(2.5)
    meter.failed_backup = "the disk is full"
    warnings = list(find_meter_warnings(meter, -3600.0))
    assert [warning.code for warning in warnings] == ["loop_lag", "clock_jump", "backup_failed"]
    assert "back by 3600 s" in warnings[1].message


def test_waits(store: Store) -> None:
    """A request that has waited half an hour for a person is named, with the number of all."""
    rich_history(store)
    with store.read() as snapshot:
        begin_ms = snapshot.need(APPROVALS, next(snapshot.scan(APPROVALS_WAITING))[1]).requested_at_ms
        assert list(find_waits(snapshot, begin_ms + STALE_MS)) == []
        warnings = list(find_waits(snapshot, begin_ms + 2 * STALE_MS))
    assert {warning.code for warning in warnings} == {"unattended"}
    kinds = ("the approval", "the question", "the call in doubt")
    assert all(warning.message.startswith(kind) for warning, kind in zip(warnings, kinds, strict=True))
    assert all(warning.related_id in warning.message for warning in warnings if warning.related_id)


def test_stale_runs(store: Store) -> None:
    """The oldest runs without progress are named, and whether they have a slot."""
    for number in range(MAX_STALE_WARNINGS):
        session_with_runs(store, f"ses_{number}", "queued")
    session_with_runs(store, "ses_run", "running")
    with store.read() as snapshot:
        begin_ms = snapshot.need(RUNS, "run_ses_0_0").updated_at_ms
        assert list(find_stale_runs(snapshot, begin_ms + STALE_MS)) == []
        warnings = list(find_stale_runs(snapshot, begin_ms + 2 * STALE_MS))
    assert len(warnings) == MAX_STALE_WARNINGS
    assert warnings[0].code == "run_not_started"
    assert warnings[0].related_id == "run_ses_0_0"


def test_failed_servers() -> None:
    """A failed MCP server is named with its problem."""
    spec = ServerSpec("git", McpServerSettings(command="x"))
    holder = McpHolder()
    holder.current = cast(
        "Any",
        SimpleNamespace(
            views=lambda: [
                view_of(spec, "failed", problem="no such file", retry_at_ms=1),
                view_of(spec, "failed", problem="it killed the process that supervises it"),
                view_of(spec, "ready"),
                view_of(spec, "needs_login", problem="its token has expired"),
            ]
        ),
    )
    warning, stopped, login = find_failed_servers(holder)
    assert warning.remedy == "repair it; the daemon tries again by itself"
    assert stopped.remedy == "repair it, and connect anew by mcp.restart"
    assert (login.code, login.remedy) == ("mcp_needs_login", "begin one by mcp.login")
    assert "'git' is not connected: no such file" in warning.message


def test_sentences_are_split_into_message_and_remedy() -> None:
    """The end of a sentence is its remedy; without one, the default is."""
    warning = split_warning("code", "it broke; mend it", "look")
    assert (warning.message, warning.remedy) == ("it broke", "mend it")
    assert format_warning(split_warning("code", "it broke", "look")) == "it broke; look"


def test_failed_hooks(store: Store) -> None:
    """A configured hook with unresolved failures is named, with their number and the last problem."""
    rich_history(store)
    with store.read() as snapshot:
        assert list(find_failed_hooks(snapshot, {"other"})) == []
        (warning,) = find_failed_hooks(snapshot, {"guard"})
    assert warning.message.startswith("the hook 'guard' failed 1 time: it hung")
    assert (warning.code, bool(warning.related_id)) == ("hook_failing", True)


def test_undelivered_mail(store: Store) -> None:
    """A message that was given up is reported for a day, unless the mailbox is closed."""
    rich_history(store)
    with store.read() as snapshot:
        letters = [mail for _, mail in snapshot.scan(MAIL) if mail.state == "dead_letter"]
    box, letter = "ses_of_mail", replace(letters[0], agent_id="ses_of_mail", outcome="attempts")

    def add(tx: Transaction) -> None:
        tx.put(MAILBOXES, box, value=Mailbox(agent_id=box, created_cursor=1, dead_letters=1))
        tx.put(MAIL, f"{box}/m", value=letter)
        tx.put(MAIL_BY_STATE, box, "dead_letter", 1, value=f"{box}/m")

    update(store, add)
    now_ms = letter.updated_at_ms
    with store.read() as snapshot:
        (warning,) = [row for row in find_undelivered_mail(snapshot, now_ms) if row.related_id == box]
        assert warning.code == "mail_undelivered"
        assert not list(find_undelivered_mail(snapshot, now_ms + RECENT_MAIL_MS + 1))
