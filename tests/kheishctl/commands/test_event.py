"""``kheishctl event``."""

import json

from tests.support.ctl import Ctl


def test_events_are_published_and_listed(ctl: Ctl, sender: str) -> None:
    """An event is shown with its deliveries; the list has the newest first, as lines with --json."""
    published = ctl.json("event", "publish", f"{sender}.a", '{"n": 1}', "--idempotency-key", sender)
    assert ctl.json("event", "publish", f"{sender}.a", '{"n": 1}', "--idempotency-key", sender) == published
    assert published["status"] == "done"
    ctl("event", "publish", f"{sender}.b")
    assert ctl.json("event", "show", published["event_id"]) == published
    lines = ctl("event", "list", f"{sender}.*", "--json").out.splitlines()
    assert [json.loads(line)["source"] for line in lines] == [f"{sender}.b", f"{sender}.a"]
    assert f'{sender}.a {{"n": 1}}' in ctl("event", "list", f"{sender}.*").out
    assert published["event_id"] in ctl("event", "list", f"{sender}.*").out
    ctl("event", "publish", f"{sender}.long", json.dumps("x" * 4000))
    assert max(map(len, ctl("event", "list", f"{sender}.long").out.splitlines())) < 400
    done = ctl("event", "show", "evt_none")
    assert (done.code, "event list" in done.err) == (1, True)
    assert ctl("event", "publish", "agent:default:done").code == 1
