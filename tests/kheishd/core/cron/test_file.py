"""Rows of the file of cron entries."""

import tomllib

from kheishd.core.cron.file import CRON_FILE, format_row
from protocol.objects.cron import Cron, CronProperties
from protocol.objects.wake import WakeTarget
from protocol.structs import fields_of


def test_a_row_is_valid_toml_whatever_its_texts_hold() -> None:
    """Quotes, controls, line breaks and characters beyond the first plane come back as they were."""
    text = '"\\\n\x01\x7f\u2028é😀'
    target = WakeTarget(session_id="ses_1", skill="a", arguments=text)
    row = format_row(
        Cron(cron_id="c", status="active", schedule="@daily", name=text, target=target, max_executions=3)
    )
    assert tomllib.loads(row) == {
        "cron": [
            {
                "id": "c",
                "schedule": "@daily",
                "name": text,
                "max_executions": 3,
                "session_id": "ses_1",
                "skill": "a",
                "arguments": text,
            }
        ]
    }


GOOD = """
[[cron]]
id = "tidy"
schedule = "0 9 * * mon-fri"
timezone = "Europe/Paris"
quiet_start = "22:00"
quiet_end = "07:00"
agent = "default"
prompt = "tidy up"
"""


def test_a_bad_row_is_skipped_with_its_line() -> None:
    """The other rows count; the entry of a bad row is to stay as it is."""
    bad = {
        'id = "a"\nschedule = "* * *"\nagent = "default"\nprompt = "x"': (
            14,
            "schedule: the schedule has 3 fields",
        ),
        'id = "a"\nschedule = "@daily"\ntimezone = "Mars"\nagent = "d"\nprompt = "x"': (
            15,
            "timezone: there is no",
        ),
        'id = "a"\nschedule = "@daily"\nagent = "d"\nprompt = "x"\nskil = "y"': (17, "skil: unknown key"),
        'id = "a"\nschedule = "@daily"\nagent = "d"': (12, "prompt: give either"),
        'id = "a"\nschedule = "@daily"\nprompt = "x"': (12, "agent: give either"),
        'id = "a"\nschedule = "@daily"\nsession_id = "s"\nsender = "x"\nprompt = "x"': (
            16,
            "sender: a session",
        ),
        'id = "a"\nschedule = "@daily"\nagent = "d"\nprompt = "x"\ngrace_s = "1"': (17, "grace_s: "),
        'id = "a"\nschedule = "@daily"\nagent = "d"\nprompt = "x"\nquiet_start = "9:00"': (12, "quiet_end: "),
    }
    for row, (line, words) in bad.items():
        read = CRON_FILE.parse(f"{GOOD}\n\n[[cron]]\n{row}\n", "crons.toml")
        assert [*read.rows] == ["tidy"]
        assert read.invalid == {"a"}
        (warning,) = read.warnings
        assert warning.startswith(f"skipped the cron entry in crons.toml:{line}: {words}"), warning


def test_ids_are_unique_and_keys_are_known() -> None:
    """The second row of an id is skipped; a misspelt table is named."""
    read = CRON_FILE.parse(f"{GOOD}{GOOD}\n[[crons]]\n", "crons.toml")
    assert [*read.rows] == ["tidy"]
    assert read.invalid == frozenset()
    assert len(read.warnings) == 2
    assert "the id 'tidy' is there twice" in read.warnings[1]
    assert "crons: unknown key" in read.warnings[0]
    assert CRON_FILE.parse("cron = 3\n", "crons.toml").warnings[0].endswith("expected a table, got a number")


def test_an_exported_file_is_read_back() -> None:
    """Export writes the format that the daemon reads."""
    rows = CRON_FILE.parse(GOOD, "crons.toml").rows
    cron = Cron(cron_id="tidy", status="active", **fields_of(CronProperties, rows["tidy"]))
    assert CRON_FILE.parse(format_row(cron), "crons.toml").rows == rows
