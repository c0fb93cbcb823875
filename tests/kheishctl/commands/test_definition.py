"""``kheishctl definition``."""

from tests.support.ctl import Ctl


def test_list(ctl: Ctl) -> None:
    """The built-in agent is there."""
    assert ["default", "built_in"] in [row[:2] for row in ctl("definition", "list").rows]


def test_get(ctl: Ctl) -> None:
    """Properties first, instructions last."""
    agent = ctl.json("definition", "show", "default")
    shown = ctl("definition", "show", "default").out
    assert shown.startswith("name\tdefault\n")
    assert shown.rstrip().endswith(agent["instructions"].rstrip())


def test_get_nobody(ctl: Ctl) -> None:
    """An agent that is not there is refused, saying where to look."""
    done = ctl("definition", "show", "nobody")
    assert done.code == 1
    assert "nobody" in done.err
