"""The port of a command: what is told apart, limits, and the end."""

import pytest
import trio

from kheishd.hooks.network import proxy
from kheishd.hooks.network.proxy import proxy_variables, serving
from tests.support.gates import make_gate
from tests.support.proxies import echo_server, open_proxy, read_all


def tunnel(port: int) -> bytes:
    """Return a request for a tunnel."""
    return f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


async def test_both_protocols_on_one_port() -> None:
    """The first byte tells the protocols apart; anything else is answered as HTTP."""
    async with open_proxy(make_gate()) as port:
        for sent, answer in (
            (b"\x05\x01\x02", b"\x05\xff"),
            (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 400"),
            (b"\x16\x03\x01", b""),
            (b"\x04\x01\0\x50\x7f\0\0\x01\0" + b"\r\n\r\n", b"HTTP/1.1 400"),
        ):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(sent)
                await stream.send_eof()
                assert (await read_all(stream)).startswith(answer)


async def test_a_silent_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a complete request is closed after a time."""
    monkeypatch.setattr(proxy, "MAX_HEAD_SECONDS", 0.05)
    async with open_proxy(make_gate()) as port:
        for sent in (b"", b"\x05\x01", b"CONNECT "):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                if sent:
                    await stream.send_all(sent)
                assert await read_all(stream) in (b"", b"\x05\x00")


async def test_the_connections_of_a_command_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further connection waits until another one has ended."""
    monkeypatch.setattr(proxy, "MAX_COMMAND_CONNECTIONS", 2)
    async with echo_server() as server, open_proxy(make_gate(f"127.0.0.1:{server}")) as port:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        for stream in streams:
            await stream.send_all(tunnel(server))
        for stream in streams[:2]:
            assert b" 200 " in await stream.receive_some()
        with trio.move_on_after(0.1) as waiting:
            await streams[2].receive_some()
        assert waiting.cancelled_caught
        await streams[0].aclose()
        with trio.fail_after(10):
            assert b" 200 " in await streams[2].receive_some()
        for stream in streams:
            await stream.aclose()


async def test_the_end_of_a_command_closes_its_tunnels() -> None:
    """When the command has ended, its connections are closed, and nothing listens."""
    async with echo_server() as server:
        async with open_proxy(make_gate(f"127.0.0.1:{server}")) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(tunnel(server))
            assert b" 200 " in await stream.receive_some()
        assert await read_all(stream) == b""
        await stream.aclose()
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_an_error_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure inside the daemon is logged, and the proxy serves on."""
    gate = make_gate()

    async def fail(destination: object) -> None:
        raise RuntimeError("broken")

    async with open_proxy(gate) as port:
        for broken in (True, False):
            with monkeypatch.context() as patch:
                if broken:
                    patch.setattr(gate, "connect", fail)
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(tunnel(1))
                    assert (b" 403 " in await read_all(stream)) is not broken
    assert "serving a connection of a command failed" in caplog.text


async def test_a_command_without_a_port() -> None:
    """A command with the machine's network has no proxy."""
    gate = make_gate()
    async with serving(None, gate):
        assert not gate.is_served


def test_variables() -> None:
    """Programs find the proxy by variables in both cases, and their own servers without it."""
    variables = proxy_variables()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        assert variables[name] == variables[name.upper()] == "http://127.0.0.1:808"
    assert variables["no_proxy"] == variables["NO_PROXY"] == "localhost,127.0.0.1,::1"
