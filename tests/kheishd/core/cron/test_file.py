"""Rows of the file of cron entries."""

import tomllib

from kheishd.core.cron.file import format_row
from protocol.objects.cron import Cron
from protocol.objects.wake import WakeTarget


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
