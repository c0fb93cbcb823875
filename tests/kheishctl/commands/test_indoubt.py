"""``kheishctl indoubt``."""

from collections.abc import Iterator

import pytest

from kheishctl import exits
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home
from tests.support.histories import session_with_runs
from tests.support.stores import opened


@pytest.fixture(scope="module")
def doubting() -> Iterator[Ctl]:
    """A daemon on a home where calls are in doubt, as one before it left them."""
    with short_home() as home:
        home.mkdir(mode=0o700, exist_ok=True)
        store = opened(home / "state")
        session_with_runs(store, "ses_a", "doubted", "settled")
        session_with_runs(store, "ses_b", "doubted")
        store.close()
        with Daemon(home):
            yield Ctl(home)


def test_list(doubting: Ctl) -> None:
    """The open ones, oldest first; of a session or run; settled ones when asked for."""
    assert [row[0] for row in doubting("indoubt", "list").rows] == ["dbt_run_ses_a_0", "dbt_run_ses_b_0"]
    (row,) = doubting("indoubt", "list", "--run", "run_ses_a_1", "--status", "done").rows
    assert row[:4] == ["dbt_run_ses_a_1", "done by probe", "write", "its file is there"]
    assert doubting("indoubt", "list", "--status", "not-done").out == ""


def test_show(doubting: Ctl) -> None:
    """What was called and what is known."""
    shown = doubting("indoubt", "show", "dbt_run_ses_b_0")
    assert ["note", "its file is there"] in shown.rows
    assert doubting.json("indoubt", "show", "dbt_run_ses_b_0")["status"] == "open"


def test_resolve(doubting: Ctl) -> None:
    """Once; who comes second is told what the first said."""
    words = ["indoubt", "resolve", "dbt_run_ses_b_0", "not-done", "--justification", "looked"]
    assert doubting.json(*words, "--check")["status"] == "not_done"
    assert doubting(*words).out.startswith("dbt_run_ses_b_0 not done by uid:")
    again = doubting("indoubt", "resolve", "dbt_run_ses_b_0", "done")
    assert (again.code, "resolved as not done by uid:" in again.err) == (exits.FAILED, True)
    assert doubting("indoubt", "resolve", "dbt_run_ses_b_0", "perhaps").code == exits.USAGE


def test_the_status_counts_them(doubting: Ctl) -> None:
    """Whoever looks after the daemon sees that somebody has to look."""
    (row,) = [row for row in doubting("status").rows if row[0] == "waiting"]
    assert row[1].endswith("in doubt")
