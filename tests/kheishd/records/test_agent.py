"""Records of spawned agents, and their index rows."""

from msgspec.structs import replace

from kheishd.records.agent import AGENT_RECORDS, hash_key
from protocol.events.agent import AgentClosed, AgentCloseRequested, AgentRenamed
from protocol.events.run import RunEnded
from protocol.text import fold_text
from tests.kheishd.core.test_agent import SPAWNED
from tests.support.records import index_rows

LASTING = {
    "agents_by_nickname": [(hash_key(fold_text("Atlas")),)],
    "agents_by_path": [("ses_1/scout",)],
    "agents_by_time": [(1000, "ses_1", "s")],
    "spawn_receipts": [("ses_1", hash_key("r"))],
}
LIVE = {"agents_live": [("ses_1", "ses_1", "s")], "agents_by_name": [("scout", "s")]}


def test_a_live_agent_is_counted() -> None:
    """It is in the list of its root until it is closed, and found by path, nickname and request."""
    assert index_rows(AGENT_RECORDS, SPAWNED) == LASTING | LIVE
    closing = index_rows(AGENT_RECORDS, SPAWNED, AgentCloseRequested())
    assert closing == LASTING | LIVE | {"agents_closing": [("s",)]}
    assert index_rows(AGENT_RECORDS, SPAWNED, AgentCloseRequested(), AgentClosed()) == LASTING


def test_an_agent_that_closes_by_itself_is_listed_once_it_has_settled() -> None:
    """It is tied to the run that spawned it, until its close begins."""
    spawned = replace(SPAWNED, retention="close_on_settle", spawned_by_run_id="run_0")
    rows = LASTING | {"agents_by_run": [("run_0", "s")]}
    tied = {"agents_tied": [("run_0", "s")]}
    ended = RunEnded(outcome="completed")
    assert index_rows(AGENT_RECORDS, spawned) == rows | LIVE | tied
    assert index_rows(AGENT_RECORDS, spawned, ended) == rows | LIVE | tied | {"agents_settled": [("s",)]}
    assert index_rows(AGENT_RECORDS, spawned, ended, AgentCloseRequested(), AgentClosed()) == rows
    assert "agents_settled" not in index_rows(AGENT_RECORDS, SPAWNED, ended)


def test_a_new_nickname_frees_the_old_one() -> None:
    """An agent has one nickname."""
    rows = index_rows(AGENT_RECORDS, SPAWNED, AgentRenamed(nickname="Nova"))
    assert rows["agents_by_nickname"] == [(hash_key("nova"),)]
