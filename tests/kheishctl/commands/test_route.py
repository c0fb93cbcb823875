"""``kheishctl route``."""

import json
import sys

from kheishctl.commands.route import describe_readiness, format_checks, format_route
from kheishctl.render.layout import Display
from tests.support.ctl import Ctl
from tests.support.terminal import Terminal


def test_list(ctl: Ctl) -> None:
    """The built-in route is listed as the default and as ready."""
    rows = ctl("route", "list").rows
    assert [row[:5] for row in rows] == [["offline", "offline", "offline", "default", "ready"]]


def test_show(ctl: Ctl) -> None:
    """A route is shown as text and as JSON."""
    assert ["driver", "offline"] in ctl("route", "show", "offline").rows
    assert ctl.json("route", "show", "offline")["model"] == "offline"


def test_show_route_not_found(ctl: Ctl) -> None:
    """An unknown route is refused."""
    assert ctl("route", "show", "none").code == 1


def test_test(ctl: Ctl) -> None:
    """The steps of a test are listed with their results."""
    result = ctl("route", "test", "offline")
    assert [row[:2] for row in result.rows] == [
        ["connect", "ok"],
        ["authenticate", "skipped"],
        ["stream", "ok"],
        ["tool call", "skipped"],
        ["usage", "ok"],
    ]
    assert ctl.json("route", "test", "offline")["ok"] is True


def test_test_of_a_route_that_fails(ctl: Ctl) -> None:
    """A failed step sets the exit code, and its note says what happened."""
    config = ctl.home / "config.toml"
    config.write_text('[routes.gone]\ndriver = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n')
    assert ctl("daemon", "reload").code == 0
    result, as_json = ctl("route", "test", "gone"), ctl("route", "test", "gone", "--json")
    # Other tests share the daemon.
    config.unlink()
    assert ctl("daemon", "reload").code == 0
    assert (result.code, as_json.code) == (1, 1)
    assert result.rows[0][:2] == ["connect", "failed"]
    assert "no connection" in result.rows[0][2]
    assert as_json.json["ok"] is False


def test_whole_notes_on_a_terminal() -> None:
    """A terminal shows the notes of a test in full, however narrow it is."""
    note = "it wrote: " + "many words " * 20
    checks = [{"name": "connect", "status": "ok"}, {"name": "tool_call", "status": "failed", "note": note}]
    lines = format_checks(checks, Display(40, False, 0)).splitlines()
    assert lines == ["connect       ok", f"tool call     failed   {note.strip()}"]


def test_whole_problems_on_a_terminal(ctl: Ctl) -> None:
    """A terminal shows the problem of a route in full below the table."""
    config = ctl.home / "config.toml"
    config.write_text('[routes.keyless]\nmodel = "m"\nauth_ref = "env:KHEISH_TEST_KEY_THAT_IS_NOT_SET"\n')
    assert ctl("daemon", "reload").code == 0
    command = [sys.executable, "-m", "kheishctl", "--home", str(ctl.home), "route", "list"]
    with Terminal(command, {}, columns=200) as terminal:
        terminal.sees("keyless: 'env:KHEISH_TEST_KEY_THAT_IS_NOT_SET' is not set in the daemon's environment")
        assert "responses" in terminal.text
    # Other tests share the daemon.
    config.unlink()
    assert ctl("daemon", "reload").code == 0


def test_put_rollback_default_and_delete(ctl: Ctl) -> None:
    """A route is stored, used at once, changed back, made the default one, and deleted."""
    stored = ctl.json("route", "put", "echo", "--driver", "offline", "--model", "first")
    assert (stored["revision"], stored["settings"]) == (1, {"driver": "offline", "model": "first"})
    assert ctl("send", "--as", "routes", "--route", "echo", "default", "hello").code == 0
    changed = ["--settings", '{"driver": "offline", "model": "x"}', "--model", "second"]
    assert ctl.json("route", "put", "echo", *changed, "--expected-revision", "1")["revision"] == 2
    assert ctl("route", "put", "echo", *changed, "--expected-revision", "1").code == 1
    assert ctl.json("route", "rollback", "echo")["settings"]["model"] == "first"
    shown = ctl.json("route", "show", "echo")
    assert (shown["source"], shown["revision"], len(shown["revisions"])) == ("stored", 3, 3)
    assert ctl.json("route", "default", "echo") == {"route_id": "echo", "stored": True}
    assert ctl.json("daemon", "status")["default_route"] == "echo"
    refused = ctl("route", "delete", "echo")
    assert refused.code == 1
    assert "it is the default route" in refused.err
    assert ctl.json("route", "default", "--reset") == {"route_id": "offline"}
    assert ctl.json("route", "delete", "echo") == {"route_id": "echo"}
    assert ctl("route", "show", "echo").code == 1


def test_usage(ctl: Ctl) -> None:
    """Wrong options are usage errors."""
    for arguments in (
        ["put", "r", "--driver", "offline"],
        ["put", "r", "--settings", "[]"],
        ["default"],
        ["default", "echo", "--reset"],
    ):
        assert ctl("route", *arguments).code == 2


def test_a_chain_with_several_keys(ctl: Ctl) -> None:
    """Options name keys and fallbacks in order; the test of a chain shows each of them."""
    assert ctl("route", "put", "second", "--driver", "offline", "--model", "m").code == 0
    keys = ["--auth-ref", "env:A", "--auth-ref", "env:B"]
    stored = ctl.json(
        "route", "put", "first", "--driver", "offline", "--model", "m", *keys, "--fallback", "second"
    )
    assert (stored["settings"]["auth_refs"], stored["settings"]["fallback"]) == (
        ["env:A", "env:B"],
        ["second"],
    )
    lines = [row[0] for row in ctl("route", "test", "first").rows if len(row) == 1 and row[0]]
    assert lines == ["first (env:A)", "first (env:B)", "second"]
    assert ctl("route", "delete", "second").code == 1
    for route_id in ("first", "second"):
        assert ctl("route", "delete", route_id).code == 0


def test_cooldowns_and_revisions_are_lines() -> None:
    """Each cooldown and each earlier revision takes one line."""
    settings = {"model": "m"}
    revisions = [
        {"revision": 3, "settings": settings, "updated_at_ms": 3_000},
        {"revision": 2, "settings": settings, "updated_at_ms": 2_000, "rollback_of": 1},
    ]
    cooldowns = [{"reason": "rate_limited", "failures": 1, "until_ms": 9_000, "auth_ref": "env:A"}]
    route = {"route_id": "r", "model": "m", "revision": 3, "revisions": revisions, "cooldowns": cooldowns}
    rows = dict(line.split("\t", 1) for line in format_route(route, Display(None, False, 0)).splitlines())
    assert rows["cooldown"] == "rate_limited until 1970-01-01T00:00:09.000Z, env:A"
    assert rows["revision 2"] == "m, that of revision 1, since 1970-01-01T00:00:02.000Z"
    assert rows["revision"] == "3"


def test_readiness() -> None:
    """A list says whether a route can be asked now."""
    rows = ({"ready": True}, {"ready": False}, {"ready": True, "cooldowns": [{}]})
    assert [describe_readiness(row) for row in rows] == ["ready", "not ready", "cooling down"]


def test_test_of_a_chain(ctl: Ctl) -> None:
    """A fallback that is not part of the chain is not tested, and a note says why."""
    stand_in = {"model": "m", "driver": "offline"}
    server = {"model": "m", "preset": "ollama", "base_url": "http://127.0.0.1:1/v1"}
    for name, settings in (
        ("spare", server),
        ("first", {**server, "fallback": ["spare"]}),
        ("spare", stand_in),
    ):
        assert ctl("route", "put", name, "--settings", json.dumps(settings)).code == 0
    tested = ctl("route", "test", "first")
    assert "warning: the fallback 'spare' is a stand-in and is passed over" in tested.err
    refused = ctl("route", "delete", "spare")
    assert "the route 'spare' is in use: it is a fallback of the route 'first'" in refused.err
    for name in ("first", "spare"):
        assert ctl("route", "delete", name).code == 0
