"""``kheishctl checkpoint``."""

from kheishctl.commands.checkpoint import _name_files
from tests.support.ctl import Ctl


def test_a_session_without_changes(ctl: Ctl, sender: str) -> None:
    """There is nothing to list, to show or to restore."""
    session = ctl.json("send", "default", "hi", "--as", sender)["session_id"]
    assert ctl("checkpoint", "list", session).out == ""
    assert ctl.json("checkpoint", "list", session)["checkpoints"] == []
    for verb in ("diff", "restore"):
        assert ctl("checkpoint", verb, session).code == 1
        assert ctl("checkpoint", verb, session, "--since", "0").code == 1


def test_files_are_named() -> None:
    """A row names the first files and counts the others."""
    row = {"files": [{"path": name} for name in "abcd"], "more": 2}
    assert _name_files(row) == "a, b, c and 3 more"
    assert _name_files({"files": [{"path": "a"}]}) == "a"
