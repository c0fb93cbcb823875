"""Addresses: which are on the public internet."""

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.network.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111"),
        *("2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
    ],
)
def test_public(address: str) -> None:
    """Public servers are public in either notation."""
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
        *("172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
        *(
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
        ),
        *("::", "::1", "::7f00:1", "::8.8.8.8", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12::1"),
        *("ff02::1", "2001::1", "2001:db8::1", "2001:10::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1"),
        *("100::1", "64:ff9b:1::1", "5f00::1", "4000::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0"),
        *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_not_public(address: str) -> None:
    """Private, local, special, multicast and unassigned addresses are not public."""
    assert not is_public(ip_address(address))


@given(st.integers(0, 2**32 - 1))
def test_an_address_in_another_is_that_address(number: int) -> None:
    """An embedded IPv4 address decides."""
    inner = IPv4Address(number)
    for block in ("::ffff:0:0", "64:ff9b::"):
        assert is_public(ip_address(int(ip_address(block)) + number)) is is_public(inner)
    assert not (is_public(inner) and not inner.is_global)
