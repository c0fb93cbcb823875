"""``kheishctl cron``."""

import re

from kheishctl.commands.cron import COLUMNS, format_cron
from kheishctl.render.layout import Display
from tests.support.ctl import Ctl


def test_an_entry_from_its_preview_to_its_deletion(ctl: Ctl, sender: str) -> None:
    """A dry run shows five firings and creates nothing; each command shows the entry."""
    line = ("cron", "create", "0 9 * * mon-fri", "Good morning", "--zone", "Europe/Paris", "--id", sender)
    preview = ctl(*line, "--as", sender, "--dry-run").out
    assert preview.count(" 09:00:00") == 5
    assert ctl("cron", "show", sender).code == 1
    made = ctl.json(*line, "--as", sender, "--quiet-from", "22:00", "--quiet-until", "07:00", "--grace", "2m")
    assert (made["quiet_start"], made["quiet_end"], made["grace_s"]) == ("22:00", "07:00", 120)
    assert made["target"] == {"agent": "default", "sender": sender, "prompt": "Good morning"}
    assert [sender, "active"] in [row[:2] for row in ctl("cron", "list", "--query", sender).rows]
    changed = ctl.json("cron", "update", sender, "--schedule", "every 90m", "--revision", "1", "--once")
    assert (changed["revision"], changed["once"], changed["target"]) == (2, True, made["target"])
    assert ctl("cron", "update", sender, "--schedule", "@daily", "--revision", "1").code == 1
    assert ctl.json("cron", "pause", sender, "--note", "holiday")["status"] == "paused"
    assert "the entry is paused: holiday" in ctl("cron", "explain", sender, "--at", "09:00").out
    ctl("cron", "update", sender, "--zone", "Asia/Tokyo")
    assert "2027-01-02 09:00:00+09:00: " in ctl("cron", "explain", sender, "--at", "2027-01-02T09:00").out
    assert (
        "2027-01-02 17:00:00+09:00: " in ctl("cron", "explain", sender, "--at", "2027-01-02T09:00+01:00").out
    )
    assert ctl.json("cron", "resume", sender)["status"] == "active"
    fired = ctl.json("cron", "fire", sender)
    ctl("run", "wait", fired["run_id"])
    assert fired["run_id"] in ctl("cron", "explain", sender).out
    assert fired["run_id"] in ctl("cron", "show", sender, "--count", "1").out
    assert f'id = "{sender}"' in ctl("cron", "export").out
    assert ctl.json("cron", "delete", sender)["cron_id"] == sender


def test_bad_arguments_are_named(ctl: Ctl) -> None:
    """A bad time is a usage error; a bad schedule is refused with the remedy."""
    done = ctl("cron", "explain", "x", "--at", "noon")
    assert (done.code, "is not a time such as" in done.err) == (2, True)
    done = ctl("cron", "create", *"0 9 * * mon-fri".split(), "x")
    assert (done.code, "put the schedule and the prompt in quotes" in done.err) == (2, True)
    done = ctl("cron", "create", "0 9 * * mo-fr", "x")
    assert "the day-of-week 'mo-fr' is invalid: it is 0-7, or sun mon" in done.err
    done = ctl("cron", "create", "0 9 * * mon-fri")
    assert (done.code, "pass either PROMPT, the task in quotes, or --skill NAME" in done.err) == (2, True)
    done = ctl("cron", "create", "@daily", "x", "--quiet-from", "22:00")
    assert (done.code, "quiet hours need both --quiet-from and --quiet-until" in done.err) == (2, True)
    done = ctl("cron", "update", "x", "--agent", "default")
    assert (done.code, "pass either --prompt TEXT or --skill NAME" in done.err) == (2, True)
    assert "The cron entry." in ctl("cron", "show", "--help").out
    done = ctl("cron", "create", "* * *", "x")
    assert (done.code, "3 fields" in done.err) == (1, True)


def test_a_terminal_shows_due_times_in_the_zone_of_the_entry() -> None:
    """On a terminal the due times are in the zone of the next firings; a pipe has UTC and wire names."""
    cron = {
        "timezone": "Asia/Tokyo",
        "status": "active",
        "next_due_ms": 86_400_000,
        "recent": [{"due_ms": 0, "outcome": "skipped"}],
    }
    text = format_cron(cron, Display(width=100, color=False, now_ms=0))
    assert re.search(r"^next due +1970-01-02 09:00:00\+09:00 \(", text, re.MULTILINE)
    assert re.search(r"^1970-01-01 09:00:00\+09:00 +skipped", text, re.MULTILINE)
    assert "next_due_ms\t1970-01-02" in format_cron(cron, Display(width=None, color=False, now_ms=0))


def test_the_list_shows_the_time_of_a_deferred_firing() -> None:
    """The next firing is the earlier of the next due time and of a deferred one."""
    (column,) = (column for column in COLUMNS if column.title == "NEXT")
    display = Display(width=None, color=False, now_ms=0)
    rows: tuple[dict[str, int], ...] = (
        {"next_due_ms": 2_000},
        {"next_due_ms": 2_000, "deferred_until_ms": 1_000},
        {},
    )
    cells = [column.format_cell(row, display) for row in rows]
    assert (cells[1] < cells[0], cells[2]) == (True, "")
