"""``kheishctl indoubt``."""

from collections.abc import Iterator

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home
from tests.support.histories import session_with_runs
from tests.support.stores import open_inline


@pytest.fixture(scope="module")
def home_with_doubts() -> Iterator[Ctl]:
    """Run a daemon on a home whose previous daemon left calls in doubt."""
    with short_home() as home:
        home.mkdir(mode=0o700, exist_ok=True)
        store = open_inline(home / "state")
        session_with_runs(store, "ses_a", "doubted", "settled")
        session_with_runs(store, "ses_b", "doubted")
        store.close()
        with Daemon(home):
            yield Ctl(home)


def test_list(home_with_doubts: Ctl) -> None:
    """Open calls in doubt are listed oldest first, and resolved ones by status."""
    assert [row[0] for row in home_with_doubts("indoubt", "list").rows] == [
        "dbt_run_ses_a_0",
        "dbt_run_ses_b_0",
    ]
    (row,) = home_with_doubts("indoubt", "list", "--run", "run_ses_a_1", "--status", "done").rows
    assert row[:4] == ["dbt_run_ses_a_1", "done by probe", "write", "its file is there"]
    assert home_with_doubts("indoubt", "list", "--status", "not-done").out == ""


def test_show(home_with_doubts: Ctl) -> None:
    """A call in doubt is shown with its note and its evidence."""
    done = home_with_doubts("indoubt", "show", "dbt_run_ses_b_0")
    assert ["note", "its file is there"] in done.rows
    assert home_with_doubts.json("indoubt", "show", "dbt_run_ses_b_0")["status"] == "open"


def test_resolve(home_with_doubts: Ctl) -> None:
    """A call in doubt is resolved once; a second resolution is refused and names the first."""
    words = ["indoubt", "resolve", "dbt_run_ses_b_0", "not-done", "--justification", "looked"]
    assert home_with_doubts.json(*words, "--check")["status"] == "not_done"
    assert home_with_doubts(*words).out.startswith("dbt_run_ses_b_0 not done by uid:")
    again = home_with_doubts("indoubt", "resolve", "dbt_run_ses_b_0", "done")
    assert (again.code, "resolved as not done by uid:" in again.err) == (exit_codes.FAILED, True)
    assert home_with_doubts("indoubt", "resolve", "dbt_run_ses_b_0", "perhaps").code == exit_codes.USAGE


def test_status_counts_calls_in_doubt(home_with_doubts: Ctl) -> None:
    """The daemon's status counts open calls in doubt."""
    (row,) = [row for row in home_with_doubts("status").rows if row[0] == "waiting"]
    assert row[1].endswith("in doubt")
