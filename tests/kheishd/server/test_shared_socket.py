"""Whether granted users can reach the shared socket."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.server.authentication import SocketGrant
from kheishd.server.shared_socket import find_obstacle

OTHER = 64999
"""A user that this machine does not know."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Provide a directory that every user can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_an_open_path_has_no_obstacle(directory: Path) -> None:
    """A directory open to others and a socket open to others let every user in."""
    grants = (SocketGrant(uid=OTHER), SocketGrant(gid=OTHER))
    assert find_obstacle(directory / "s", 0o666, 0, grants) is None


def test_a_closed_directory_is_named(directory: Path) -> None:
    """The first directory that a granted user cannot enter is named, with the remedy."""
    closed = directory / "run"
    closed.mkdir(mode=0o700)
    obstacle = find_obstacle(closed / "s", 0o666, 0, [SocketGrant(uid=OTHER)])
    assert obstacle is not None
    assert obstacle[0] == "path"
    assert f"uid {OTHER} cannot enter {closed} (mode 0700); choose a path" in obstacle[1]


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_root_and_the_daemons_user_need_no_way(directory: Path, uid: int) -> None:
    """Grants of the daemon's own user and of root have no obstacle."""
    directory.chmod(0o700)
    assert find_obstacle(directory / "s", 0o600, 0, [SocketGrant(uid=uid)]) is None


def test_the_group_of_a_directory_counts(directory: Path) -> None:
    """A directory of a user's group lets that user in; one of another group does not."""
    closed = directory / "run"
    closed.mkdir()
    closed.chmod(0o710)
    nobody = SocketGrant(uid=65534)
    if os.geteuid() == 0:
        os.chown(closed, 0, 65534)
        assert find_obstacle(closed / "s", 0o660, 65534, [nobody]) is None
    os.chown(closed, -1, os.getegid())
    obstacle = find_obstacle(closed / "s", 0o666, 65534, [nobody])
    assert obstacle is not None
    assert obstacle[1].startswith("the user nobody cannot enter")


def test_the_mode_of_the_socket_counts(directory: Path) -> None:
    """A socket that a granted user cannot open is named, with the remedy."""
    obstacle = find_obstacle(directory / "s", 0o660, 0, [SocketGrant(uid=65534)])
    assert obstacle is not None
    assert obstacle[0] == "mode"
    assert "the user nobody cannot open a socket of the group 0 with mode 0660; set group" in obstacle[1]
    # Members of an unknown user's groups, and of a granted group, are unknown.
    unknown = (SocketGrant(uid=OTHER), SocketGrant(gid=100))
    assert find_obstacle(directory / "s", 0o660, 0, unknown) is None
    assert find_obstacle(directory / "s", 0o600, 0, unknown) is not None


def test_an_access_list_may_let_users_in(directory: Path) -> None:
    """A directory with an access control list is not called closed."""
    closed = directory / "run"
    closed.mkdir(mode=0o700)
    tag = b"\x02\x00\x00\x00" + b"\x01\x00\x07\x00\xff\xff\xff\xff" + b"\x02\x00\x05\x00\xe7\xfd\x00\x00"
    tag += b"\x04\x00\x00\x00\xff\xff\xff\xff" + b"\x10\x00\x05\x00\xff\xff\xff\xff"
    tag += b"\x20\x00\x00\x00\xff\xff\xff\xff"
    try:
        os.setxattr(closed, "system.posix_acl_access", tag)
    except OSError as error:
        pytest.skip(f"this file system has no access control lists: {error}")
    assert find_obstacle(closed / "s", 0o666, 0, [SocketGrant(uid=OTHER)]) is None
