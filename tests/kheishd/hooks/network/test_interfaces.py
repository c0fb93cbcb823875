"""The addresses of this machine."""

import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from kheishd.hooks.network import interfaces
from kheishd.hooks.network.interfaces import is_foreign_and_public, read_own_addresses

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 8.8.4.0/24 2 0 2
        |-- 8.8.4.0
           /24 link UNICAST
        |-- 8.8.4.7
           /32 host LOCAL
        |-- 8.8.4.255
           /32 link BROADCAST
"""
IF_INET6 = "26064700470000000000000000001111 04 40 00 82     eth0\n"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Return a directory with the tables of a machine with two public addresses."""
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    return tmp_path


def test_the_tables_of_the_kernel_are_read(tables: Path) -> None:
    """Only local addresses are the machine's own, not those of its networks."""
    assert read_own_addresses(tables) == {ip_address("8.8.4.7"), ip_address("2606:4700:4700::1111")}
    assert read_own_addresses(tables / "none") == frozenset()


def test_this_machine_has_its_loopback_address() -> None:
    """The real tables have the address of the loopback interface, and that of any socket."""
    own = read_own_addresses()
    assert ip_address("127.0.0.1") in own
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # No packet is sent: the kernel only chooses a route.
            probe.connect(("8.8.8.8", 9))
        except OSError:
            return
        assert ip_address(probe.getsockname()[0]) in own


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("8.8.4.7", False),
        ("::ffff:8.8.4.7", False),
        ("2606:4700:4700::1111", False),
        ("8.8.4.8", True),
        ("2606:4700:4700::1112", True),
        ("127.0.0.1", False),
    ],
)
def test_the_machines_own_public_address_is_not_fetched(
    tables: Path, monkeypatch: pytest.MonkeyPatch, address: str, allowed: bool
) -> None:
    """A public address of this machine leads to its own services, so it counts as private."""
    monkeypatch.setattr(interfaces, "read_own_addresses", lambda: read_own_addresses(tables))
    assert is_foreign_and_public(ip_address(address)) is allowed
