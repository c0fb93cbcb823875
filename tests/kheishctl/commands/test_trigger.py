"""``kheishctl trigger``."""

from tests.support.ctl import Ctl


def test_a_trigger_from_its_creation_to_its_deletion(ctl: Ctl, sender: str) -> None:
    """A trigger is created for the default agent, with the newest matching events as a preview."""
    ctl("event", "publish", f"{sender}.a", '{"n": 1}')
    options = ("--prompt", "Look.", "--as", sender, "--filter", '{"n": 2}', "--once")
    done = ctl("trigger", "create", f"{sender}.*", *options)
    assert f'{sender}.a {{"n": 1}}' in done.err
    made = ctl.json("trigger", "create", f"{sender}.*", *options, "--coalesce", "1m", "--max-hops", "2")
    assert made["target"] == {"agent": "default", "sender": sender, "prompt": "Look."}
    assert (made["once"], made["coalesce_s"], made["max_hops"], made["filter"]) == (True, 60, 2, {"n": 2})
    trigger_id = made["trigger_id"]
    rows = [row for row in ctl("trigger", "list", "--all").rows if row[0] == trigger_id]
    assert rows[0][:4] == [trigger_id, "active", f"{sender}.*", f"default as {sender}"]
    assert ctl.json("trigger", "pause", trigger_id)["status"] == "paused"
    assert ctl.json("trigger", "resume", trigger_id)["status"] == "active"
    assert ctl.json("trigger", "show", trigger_id)["trigger_id"] == trigger_id
    ctl("trigger", "delete", trigger_id)
    done = ctl("trigger", "show", trigger_id)
    assert (done.code, "trigger list" in done.err) == (1, True)
    done = ctl("trigger", "create", "agent:nobody:done", "--prompt", "p", "--check")
    assert "warning: there is no agent 'nobody'" in done.err
    assert "No event that matches" in ctl("trigger", "create", "none", "--prompt", "p", "--check").err
