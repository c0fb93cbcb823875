"""``kheishctl workspace``."""

from pathlib import Path

from kheishctl import exit_codes
from tests.support.ctl import Ctl


def test_trust_list_and_untrust(ctl: Ctl, tmp_path: Path) -> None:
    """A directory is named from where the command runs."""
    root = tmp_path.resolve() / "shop"
    root.mkdir()
    assert ctl.json("workspace", "trust", str(root), "--note", "mine")["root"] == str(root)
    assert str(root) in ctl("workspace", "list").out
    assert ctl.json("workspace", "untrust", f"{root}/../shop")["root"] == str(root)
    assert str(root) not in ctl("workspace", "list").out
    assert ctl("workspace", "untrust", str(root)).code == exit_codes.FAILED


def test_show(ctl: Ctl, tmp_path: Path) -> None:
    """A directory is shown with its links resolved, and with why no agent may work there."""
    (tmp_path / "link").symlink_to(tmp_path)
    shown = ctl.json("workspace", "show", str(tmp_path / "link"))
    assert shown == {"path": str(tmp_path.resolve()), "workspace": str(tmp_path.resolve())}
    assert "does not exist" in ctl.json("workspace", "show", str(tmp_path / "gone"))["problem"]
    assert "home" in ctl.json("workspace", "show", str(ctl.home))["problem"]
    assert ctl.json("workspace", "show", str(ctl.home / "workspace"), "--agent", "default")["default"]
