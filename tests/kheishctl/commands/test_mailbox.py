"""``kheishctl mailbox`` against a real daemon."""

from kheishctl import exit_codes
from tests.support.ctl import Ctl


def test_life_of_a_message(ctl: Ctl, sender: str) -> None:
    """A message is posted once, listed, shown, and removed only while it is pending."""
    root = str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])
    other = str(ctl.json("session", "create")["session_id"])
    line = ("mailbox", "post", other, "Figures", '{"type": "note"}', "--from", root, "--id", f"mail_{sender}")
    first = ctl(*line, "--ttl", "1h")
    assert (first.code, first.out) == (exit_codes.OK, f"mail_{sender} posted\n"), first.err
    assert ctl(*line, "--ttl", "1h").out == f"mail_{sender} was posted before\n"
    rows = ctl("mailbox", "list", other, "--state", "any").rows
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [(f"mail_{sender}", root, "note", "Figures")]
    shown = ctl("mailbox", "show", other, f"mail_{sender}").out
    assert shown.endswith('\n\n{\n  "type": "note"\n}\n')
    assert ctl.json("mailbox", "dead-letters", other)["messages"] == []
    while ctl.json("mailbox", "show", other, f"mail_{sender}")["state"] != "done":
        pass
    assert ctl("mailbox", "ack", other, f"mail_{sender}").out.endswith("was not removed\n")
    missing = ctl("mailbox", "ack", other, "mail_none")
    assert (missing.code, "mailbox list AGENT" in missing.err) == (exit_codes.FAILED, True)


def test_a_payload_is_json_from_the_line_or_standard_input(ctl: Ctl, sender: str) -> None:
    """A payload may be empty JSON; text that is not JSON is a usage error which says how to write it."""
    root = str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])
    line = ("mailbox", "post", root, "Figures", "-", "--from", root)
    posted = ctl.json(*line, stdin="[]")["message_id"]
    assert ctl.json("mailbox", "show", root, posted)["payload"] == []
    refused = ctl(*line, stdin="plain")
    assert (refused.code, "double quotes" in refused.err) == (exit_codes.USAGE, True)
    assert ctl("mailbox", "post", root, "x", "1").code == exit_codes.USAGE
