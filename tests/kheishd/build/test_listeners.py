"""The options of the listeners."""

from pathlib import Path

import pytest

from kheishd.build.listeners import build_listen_options
from kheishd.config.reader import parse
from kheishd.home import Home
from kheishd.server.listeners import ListenerUnusable


def test_listen_options(tmp_path: Path) -> None:
    """The private socket always exists; the others as configured, with names resolved to numbers."""
    home = Home(tmp_path)
    options = build_listen_options(parse("").listen, home, {})
    assert (options.rpc.path, options.shared, options.tcp) == (home.socket, None, None)
    text = (
        "[listen.shared]\npath = 'run/shared.sock'\nmode = '0600'\n"
        "[[listen.shared.grants]]\nuid = 'root'\nscopes = ['read']\n"
        "agents = []\n[[listen.shared.grants]]\ngid = 7\nscopes = []\n"
        "[listen.tcp]\naddress = '[::1]:0'\norigins = ['https://o']\nhosts = ['h']\n"
    )
    options = build_listen_options(parse(text).listen, home, {})
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
    with pytest.raises(ListenerUnusable, match=r"this machine has no user 'no-such-user'") as refused:
        build_listen_options(parse(text).listen, Home(tmp_path), {})
    assert refused.value.key == ("listen", "shared", "grants", 0, "uid")


def test_the_shared_socket_is_outside_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path, it is in the runtime directory, else for root below /run; other daemons need a path."""
    section = parse("[listen.shared]\n").listen
    home = Home(tmp_path)
    environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b"}
    shared = build_listen_options(section, home, environ).shared
    assert shared is not None
    assert (str(shared.path), shared.mode, shared.makes_directory) == ("/run/a/shared.sock", 0o666, True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    shared = build_listen_options(section, home, {}).shared
    assert shared is not None
    assert str(shared.path) == "/run/kheish/shared.sock"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ListenerUnusable, match="such as /srv/kheish") as refused:
        build_listen_options(section, home, {})
    assert refused.value.key == ("listen", "shared", "path")
    with_group = parse("[listen.shared]\ngroup = 'users'\n").listen
    shared = build_listen_options(with_group, home, environ).shared
    assert shared is not None
    assert shared.mode == 0o660
