"""``kheishctl route``."""

from tests.support.ctl import Ctl


def test_list(ctl: Ctl) -> None:
    """The built-in route is there, the default and ready."""
    rows = ctl("route", "list").rows
    assert [row[:5] for row in rows] == [["offline", "offline", "offline", "default", "ready"]]


def test_get(ctl: Ctl) -> None:
    """One route, as text and as JSON."""
    assert ["driver", "offline"] in ctl("route", "show", "offline").rows
    assert ctl.json("route", "show", "offline")["model"] == "offline"


def test_get_none(ctl: Ctl) -> None:
    """A route that is not there is refused."""
    assert ctl("route", "show", "none").code == 1
