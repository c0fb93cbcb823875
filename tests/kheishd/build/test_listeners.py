"""The options of the listeners."""

from pathlib import Path

import pytest

from kheishd.build.listeners import build_listen_options
from kheishd.config.reader import parse
from kheishd.home import Home
from protocol.errors.daemon import ConfigInvalid


def test_listen_options(tmp_path: Path) -> None:
    """The private socket always exists; the others as configured, with names resolved to numbers."""
    home = Home(tmp_path)
    options = build_listen_options(parse("").listen, home)
    assert (options.rpc.path, options.shared, options.tcp) == (home.socket, None, None)
    text = (
        "[listen.shared]\nmode = '0600'\n[[listen.shared.grants]]\nuid = 'root'\nscopes = ['read']\n"
        "agents = []\n[[listen.shared.grants]]\ngid = 7\nscopes = []\n"
        "[listen.tcp]\naddress = '[::1]:0'\norigins = ['https://o']\nhosts = ['h']\n"
    )
    options = build_listen_options(parse(text).listen, home)
    assert options.shared is not None
    assert (options.shared.path, options.shared.mode) == (tmp_path / "run" / "shared.sock", 0o600)
    root, seven = options.shared.grants
    assert (root.uid, root.gid, root.agents, root.senders) == (0, None, frozenset(), None)
    assert (seven.uid, seven.gid, seven.scopes) == (None, 7, ())
    assert options.tcp is not None
    assert (options.tcp.host, options.tcp.port, options.tcp.origins) == ("::1", 0, ("https://o",))


def test_grant_for_an_unknown_user(tmp_path: Path) -> None:
    """A user that this machine does not know is refused, with the key."""
    text = "[[listen.shared.grants]]\nuid = 'no-such-user'\nscopes = []\n"
    with pytest.raises(ConfigInvalid, match=r"grants\[0\]\.uid: this machine has no user 'no-such-user'"):
        build_listen_options(parse(text).listen, Home(tmp_path))
