"""``kheishctl definition``."""

from tests.support.ctl import Ctl


def test_list(ctl: Ctl) -> None:
    """The built-in agent is listed."""
    assert ["default", "built_in"] in [row[:2] for row in ctl("definition", "list").rows]


def test_show(ctl: Ctl) -> None:
    """A definition is shown with its properties first and its instructions last."""
    agent = ctl.json("definition", "show", "default")
    text = ctl("definition", "show", "default").out
    assert text.startswith("name\tdefault\n")
    assert text.rstrip().endswith(agent["instructions"].rstrip())


def test_show_agent_not_found(ctl: Ctl) -> None:
    """An unknown agent is refused with a hint."""
    done = ctl("definition", "show", "nobody")
    assert done.code == 1
    assert "nobody" in done.err
