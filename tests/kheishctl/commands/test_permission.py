"""``kheishctl permission``."""

import json
from collections.abc import Iterator

import pytest

from kheishctl import exit_codes
from kheishctl.commands.permission import AUDIT_COLUMNS, _format_explanation
from kheishctl.render.layout import Display, format_table
from tests.support.ctl import Ctl

NOW = 1_795_000_000_000
PIPE, WIDE = Display(None, False, NOW), Display(200, False, NOW)


@pytest.fixture
def session(ctl: Ctl) -> str:
    """Return a session without a conversation."""
    return str(ctl.json("session", "create")["session_id"])


@pytest.fixture
def daemon_rules(ctl: Ctl) -> Iterator[None]:
    """Remove the rules of the whole daemon after the test."""
    yield
    for layer in ctl.json("permission", "list")["permissions"]:
        for rule in layer["rules"] if layer["layer"] == "daemon" else ():
            subject = f":{rule['subject']}" if "subject" in rule else ""
            ctl.json("permission", "update", "--remove", f"{rule['tool']}{subject}")


def test_why(ctl: Ctl, session: str) -> None:
    """Every line of the explanation is printed, and the verdict comes last."""
    ctl.json("permission", "update", "--session", session, "--deny", "no_tool", "--note", "not here")
    done = ctl("permission", "why", "no_tool", "a subject", "--session", session)
    assert done.code == 0
    assert [f"session {session}", "deny", "rule no_tool deny: not here"] in done.rows
    assert done.rows[-1] == ["deny", "", f"session {session} rule no_tool deny (not here)"]
    verdict = ctl.json("permission", "why", "no_tool", "--agent", "default", "--mode", "dontAsk")
    assert (verdict["decision"], verdict["mode_effect"]) == ("deny", "ask_denied")


def test_why_shows_how_a_line_was_read(ctl: Ctl, session: str) -> None:
    """Each command of a line is listed with its words, its decision and the reason."""
    ctl.json("permission", "update", "--session", session, "--allow", "bash:git log *")
    done = ctl("permission", "why", "bash", "git log 'a b' | printf -v x y", "--session", session)
    assert [
        "allow",
        "[git] [log] [a b]",
        f"session {session} rule bash 'git log *' allow, for \"git log 'a b'\"",
    ] in done.rows
    assert ["ask", "[printf] [-v] [x] [y]", "printf -v evaluates its variable"] in done.rows
    done = ctl("permission", "why", "bash", "git $x", "--session", session)
    assert "not understood: an expansion at column 5" in done.out
    assert ["command", "", "git $x"] in done.rows


def test_why_in_assumed_circumstances(ctl: Ctl, session: str) -> None:
    """The hosts that a call asks for are judged, too."""
    ctl.json("permission", "update", "--session", session, "--allow", "bash", "--allow", "*:net:pypi.org")
    for host, decision in (("pypi.org", "allow"), ("evil.example", "ask")):
        facts = json.dumps({"workdir": "/w", "network": [f"net:{host}:443"]})
        explanation = ctl.json("permission", "why", "bash", "ls", "--session", session, "--facts", facts)
        assert explanation["decision"] == decision


def test_why_without_a_tool(ctl: Ctl) -> None:
    """An explanation without a tool, or of an empty command, is a usage error."""
    assert ctl("permission", "why").code == exit_codes.USAGE
    empty = ctl("permission", "why", "bash", "")
    assert (empty.code, "SUBJECT is empty" in empty.err) == (exit_codes.USAGE, True)


def test_an_explanation_for_a_person() -> None:
    """On a terminal, the lines stand under titles and the verdict apart."""
    steps = [
        {"source": "tool", "says": "ask", "text": "its default"},
        {"source": "mode", "says": None, "text": "default is in force"},
    ]
    result = {"decision": "ask", "why": "bash's default", "note": "", "lines": steps}
    assert _format_explanation(result, WIDE).splitlines() == [
        "SOURCE  SAYS  TEXT",
        "tool    ask   its default",
        "mode          default is in force",
        "",
        "ask: bash's default",
    ]
    painted = _format_explanation(result | {"note": "look\x1b[2J"}, Display(200, True, NOW))
    assert painted.endswith("\x1b[33mask\x1b[0m: bash's default (look␛[2J)")


def test_update_and_list(ctl: Ctl, session: str) -> None:
    """Rules are added, replaced and removed, and the list has a row for each."""
    place = ("--session", session)
    words = ("--allow", "bash:git status", "--ask", "bash:git push*", "--deny", "mcp__*", "--allow", "read:")
    made = ctl.json("permission", "update", *place, *words)
    assert made["rules"] == [
        {"tool": "bash", "decision": "allow", "subject": "git status"},
        {"tool": "read", "decision": "allow", "subject": ""},
        {"tool": "bash", "decision": "ask", "subject": "git push*"},
        {"tool": "mcp__*", "decision": "deny"},
    ]
    ctl.json(
        "permission", "update", *place, "--deny", "bash:git status", "--remove", "mcp__*", "--remove", "read:"
    )
    rows = ctl("permission", "list", *place, "--all").rows
    assert ["session", session, "deny", "bash", "git status", ""] in rows
    assert ["session", session, "mode", "", "", "at most default"] in rows
    assert not any("mcp__*" in row for row in rows)
    assert [row[0] for row in ctl("permission", "list", "--limit", "2").rows] == ["managed", "daemon"]


def test_update_for_the_whole_daemon(ctl: Ctl, daemon_rules: None) -> None:
    """Without a session or run, rules apply to the daemon; a dry run changes nothing."""
    checked = ctl.json("permission", "update", "--ask", "web*", "--check")
    assert checked == {"layer": "daemon", "rules": [{"tool": "web*", "decision": "ask"}]}
    assert ["daemon", "", "", "", "", "no rules"] in ctl("permission", "list").rows
    assert ctl("permission", "update", "--ask", "web*").rows == [["daemon", "", "ask", "web*", "", ""]]
    assert ctl.json("permission", "why", "web_fetch")["why"] == "daemon rule web* ask"


def test_update_with_nothing_to_change(ctl: Ctl, session: str) -> None:
    """An update without changes is a usage error; the daemon refuses an invalid pattern."""
    done = ctl("permission", "update", "--session", session)
    assert done.code == exit_codes.USAGE
    assert "--allow" in done.err
    assert ctl("permission", "update", "--session", session, "--allow", "a*b").code == exit_codes.FAILED
    assert ctl("permission", "update", "--session", session, "--revoke", "grt_none").code == exit_codes.FAILED


def test_audit(ctl: Ctl, session: str) -> None:
    """A session without runs has no verdicts."""
    assert ctl.json("permission", "audit", "--session", session, "--oldest", "--all")["audits"] == []
    assert ctl("permission", "audit", "--run", "run_none").code == exit_codes.FAILED


def test_the_rows_of_an_audit() -> None:
    """A verdict shows its source, and an answer its person and their notes."""
    common = {"cursor": 7, "at_ms": NOW, "session_id": "s", "run_id": "r", "call_id": "c"}
    verdict = {"tool": "bash", "subject": "ls", "decision": "ask", "why": "bash's default", "note": "look"}
    answer = {"decision": "deny", "actor": "uid:0", "note": "no", "justification": "late"}
    rows = format_table([common | {"verdict": verdict}, common | answer], AUDIT_COLUMNS, PIPE).splitlines()
    assert [row.split("\t")[4:] for row in rows] == [
        ["ask", "bash", "ls", "bash's default: look"],
        ["deny", "", "", "answered by uid:0: no; late"],
    ]


def test_unknown_sessions_and_runs(ctl: Ctl) -> None:
    """Each command refuses an unknown session or run."""
    for words in (["why", "a"], ["list"], ["update", "--ask", "a"], ["audit"]):
        assert ctl("permission", *words, "--session", "none").code == exit_codes.FAILED, words


def test_rules_for_an_origin(ctl: Ctl) -> None:
    """A rule for an origin stands beside the general one, and is removed by its origin."""
    session_id = ctl.json("session", "create")["session_id"]
    ctl.json("permission", "update", "--session", session_id, "--deny", "glob*", "--origin", "connector")
    why = ("permission", "why", "glob_search", "--session", session_id)
    assert ctl.json(*why)["decision"] == "allow"
    assert ctl.json(*why, "--origin", "connector")["decision"] == "deny"
    assert "for the origin connector" in ctl("permission", "list", "--session", session_id).out
    left = ctl.json(
        "permission", "update", "--session", session_id, "--remove", "glob*", "--origin", "connector"
    )
    assert left["rules"] == []


@pytest.mark.parametrize("text", ["", " ", ":x", "bash(", "bash(git *)"])
def test_a_malformed_rule(ctl: Ctl, text: str) -> None:
    """A rule without a tool, and one in the syntax of other programs, is explained in words."""
    done = ctl("permission", "update", "--allow", text)
    assert (done.code, "is not a rule; a rule is the name of a tool" in done.err) == (2, True)
