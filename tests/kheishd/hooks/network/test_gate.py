"""The gate of a command: destinations and addresses by the rules, and the counts."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.hooks.network.connector import Connector
from kheishd.hooks.network.destination import Destination
from kheishd.hooks.network.gate import MAX_FAST_REFUSALS, REFUSAL_SECONDS, Refused
from protocol.limits.network import MAX_COMMAND_ATTEMPTS, MAX_LISTED_HOSTS
from tests.support.gates import make_gate
from tests.support.names import Names
from tests.support.proxies import echo_server


async def test_an_allowed_destination() -> None:
    """A rule that names an address of this machine opens exactly that port of it."""
    async with echo_server() as port:
        gate = make_gate(f"127.0.0.1:{port}")
        async with await gate.connect(Destination("127.0.0.1", port)) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        with pytest.raises(Refused, match="no rule allows it"):
            await gate.connect(Destination("127.0.0.1", port + 1))
        assert gate.connected == {f"127.0.0.1:{port}": 1}
        assert gate.refused == {f"127.0.0.1:{port + 1}": 1}
        assert gate.closed == {}


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::2", "0.0.0.0"])
async def test_an_allowed_name_with_a_private_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """The owner of an allowed name cannot lead a command into this machine or its network."""
    names = Names(monkeypatch, example=["8.8.8.8", address])
    gate = make_gate("example:80")
    with pytest.raises(Refused, match=f"it is .*{address}.*only a rule for exactly net:.*:80 opens it"):
        await gate.connect(Destination("example", 80))
    assert (gate.connected, gate.refused, list(gate.closed)) == ({}, {"example:80": 1}, ["example:80"])
    assert names.queries == ["example"]


async def test_a_name_whose_address_a_rule_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the rule that denies the address, not the kind of the address."""
    Names(monkeypatch, example=["8.8.4.4"])
    gate = make_gate("example:80", denied=["8.8.4.4:80"])
    with pytest.raises(Refused, match=r"it is 8\.8\.4\.4:80: the rules deny this"):
        await gate.connect(Destination("example", 80))
    assert (gate.refused, gate.closed) == ({"example:80": 1}, {})


async def test_a_rule_for_the_address_opens_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in the own network is opened by two rules: one for the name, one for its address."""
    async with echo_server() as port:
        Names(monkeypatch, example=["127.0.0.1"])
        gate = make_gate(f"example:{port}", f"127.0.0.1:{port}")
        await (await gate.connect(Destination("example", port))).aclose()
        local = make_gate(f"localhost:{port}")
        Names(monkeypatch, localhost=["127.0.0.1"])
        await (await local.connect(Destination("localhost", port))).aclose()
        Names(monkeypatch, localhost=["10.0.0.1"])
        with pytest.raises(Refused, match=f"only a rule for exactly net:10.0.0.1:{port} opens it"):
            await local.connect(Destination("localhost", port))


async def test_a_refused_name_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that no rule allows reaches no name server: the name itself could carry data."""
    names = Names(monkeypatch)
    gate = make_gate(denied=["secret.example.org:443"])
    for host in ("secret.example.org", "other.example.org"):
        with pytest.raises(Refused):
            await gate.connect(Destination(host, 443))
    assert names.queries == []


async def test_a_denied_address_closes_every_name_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deny of an address holds for each name that leads there."""
    for address in ("8.8.8.8", "64:ff9b::808:808"):
        Names(monkeypatch, example=[address])
        with pytest.raises(Refused):
            await make_gate("example:443", denied=["8.8.8.8:443"]).connect(Destination("example", 443))


async def test_the_daemons_own_ports() -> None:
    """No rule opens a port of the daemon."""
    async with echo_server() as port:
        gate = make_gate(f"127.0.0.1:{port}", f"[::1]:{port}", own_ports=[port])
        for host in ("127.0.0.1", "::1"):
            with pytest.raises(Refused, match="a port of the daemon itself"):
                await gate.connect(Destination(host, port))


async def test_many_refusals_wait(autojump_clock: MockClock) -> None:
    """A program that tries again and again waits, and the listed hosts are limited."""
    gate = make_gate()
    began = trio.current_time()
    for number in range(MAX_FAST_REFUSALS + 10):
        with pytest.raises(Refused):
            await gate.connect(Destination(f"host{number}", 443))
    assert trio.current_time() - began == pytest.approx(10 * REFUSAL_SECONDS)
    assert len(gate.refused) == MAX_LISTED_HOSTS + 1
    assert gate.refused["others"] == MAX_FAST_REFUSALS + 10 - MAX_LISTED_HOSTS


async def test_a_connection_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Connecting has a time limit, however long the resolver takes."""

    async def hang(connector: object, host: str, port: int) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Connector, "connect", hang)
    with pytest.raises(TimeoutError):
        await make_gate("example:1").connect(Destination("example", 1))


async def test_attempts_to_connect_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are resolved slowly occupy a few threads for each command, and no more."""
    running = 0

    async def hang(connector: object, host: str, port: int) -> None:
        nonlocal running
        running += 1
        await trio.sleep_forever()

    monkeypatch.setattr(Connector, "connect", hang)
    gate = make_gate("example:1")
    async with trio.open_nursery() as nursery:
        for _ in range(2 * MAX_COMMAND_ATTEMPTS):
            nursery.start_soon(gate.connect, Destination("example", 1))
        await wait_all_tasks_blocked()
        assert running == MAX_COMMAND_ATTEMPTS
        nursery.cancel_scope.cancel()
