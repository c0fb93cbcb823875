"""``kheishctl skill``."""

from pathlib import Path

import pytest

from tests.support.ctl import Ctl
from tests.support.skills import write_skill


@pytest.fixture
def skill(ctl: Ctl) -> str:
    """Write a skill into the daemon's home; return its name."""
    home = Path(ctl.json("status")["home"])
    write_skill(home / "skills", "tidy", "---\ndescription: Tidy up.\n---\nTidy $ARGUMENTS.\n")
    return "tidy"


def test_list_and_show(ctl: Ctl, skill: str) -> None:
    """A skill is listed, and shown with its instructions last."""
    assert [skill, "home", "inline", "Tidy up."] in ctl("skill", "list").rows
    assert ctl("skill", "show", skill).out.rstrip().endswith("Tidy $ARGUMENTS.")
    done = ctl("skill", "show", "nothing")
    assert done.code == 1
    assert "skill list" in done.err


def test_reload(ctl: Ctl, skill: str) -> None:
    """A reload says how many skills there are."""
    assert "skills, read in" in ctl("skill", "reload").out
    assert ctl.json("skill", "reload")["skills"] >= 1


def test_activate_and_deactivate(ctl: Ctl, skill: str) -> None:
    """A skill is activated in a session, marked there, and ended."""
    session = ctl.json("session", "create")["session_id"]
    active = ctl.json(
        "skill", "activate", skill, "--session", session, "--args", "the shed", "--note", "spring"
    )
    assert active["name"] == skill
    assert [skill, "active"] in [row[:2] for row in ctl("skill", "visible", session).rows]
    assert ctl("skill", "deactivate", skill, "--session", session).code == 0
    assert ctl.json("skill", "visible", session)["active"] == []
