"""``kheishctl call``."""

import json

from kheishctl import exit_codes
from protocol import __version__
from tests.support.ctl import Ctl


def test_call(ctl: Ctl) -> None:
    """The result of any method is printed as one JSON document."""
    assert ctl("call", "rpc.ping").json["version"] == __version__
    assert "openrpc" in ctl("call", "rpc.discover").json


def test_call_with_params(ctl: Ctl) -> None:
    """Params come from the command line or from standard input."""
    assert ctl("call", "run.list", '{"limit": 1}').json.keys() == {"runs", "next"}
    assert ctl("call", "run.list", "-", stdin='{"limit": 1}').json.keys() == {"runs", "next"}


def test_call_with_invalid_params(ctl: Ctl) -> None:
    """Params that are not a JSON object never reach the daemon."""
    for text in ("{", "[1]", "1"):
        assert ctl("call", "run.list", text).code == exit_codes.USAGE


def test_call_refused(ctl: Ctl) -> None:
    """A refusal is a message, or a JSON document with --json."""
    assert ctl("call", "no.method").code == exit_codes.FAILED
    assert ctl("call", "no.method", "--json").json["error"]["code"] == -32601


def test_call_follow(ctl: Ctl, sender: str) -> None:
    """A streaming call is followed to its end, as JSON lines."""
    params = {"agent": "default", "sender": sender, "content": "hi", "stream": True}
    lines = [
        json.loads(line)
        for line in ctl("call", "--follow", "conversation.send", json.dumps(params)).out.splitlines()
    ]
    assert "run_id" in lines[0]["result"]
    assert lines[-1]["method"] == "journal.end"
    assert "journal.event" in {line.get("method") for line in lines}


def test_methods_complete_without_a_daemon() -> None:
    """Method names complete without a daemon."""
    from click.testing import CliRunner

    from kheishctl.program import root

    environ = {"_KHEISHCTL_COMPLETE": "bash_complete", "COMP_WORDS": "kheishctl call run.", "COMP_CWORD": "2"}
    with_words = CliRunner(env=environ).invoke(root, [], prog_name="kheishctl")
    assert "plain,run.cancel" in with_words.output
