"""``kheishctl route``."""

from tests.support.ctl import Ctl


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
