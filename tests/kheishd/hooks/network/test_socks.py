"""SOCKS 5 on the port of a command, byte by byte."""

import struct

import pytest
import trio

from tests.support.gates import make_gate
from tests.support.proxies import echo_server, open_proxy, read_all

GREETING = b"\x05\x01\x00"


def request(host: bytes, port: int, command: int = 1, kind: int | None = None) -> bytes:
    """Return a request: for a name, or for an address of four or sixteen bytes."""
    kind = kind if kind is not None else {4: 1, 16: 4}[len(host)]
    address = bytes((len(host),)) + host if kind == 3 else host
    return bytes((5, command, 0, kind)) + address + struct.pack(">H", port)


async def ask(port: int, *parts: bytes) -> bytes:
    """Return the answer to bytes that are sent in parts."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for part in parts:
            await stream.send_all(part)
        await stream.send_eof()
        return await read_all(stream)


async def test_a_tunnel() -> None:
    """A name and an address are connected to; both directions end on their own."""
    async with echo_server() as server, open_proxy(make_gate(f"127.0.0.1:{server}")) as port:
        for host, kind in ((b"\x7f\0\0\x01", 1), (b"127.0.0.1", 3)):
            sent = request(host, server, kind=kind)
            answer = await ask(
                port, GREETING, *(sent[index : index + 1] for index in range(len(sent))), b"hi"
            )
            assert answer == b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6) + b"hi" + b"bye"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(b"example.org", 443, kind=3), 2),
        (request(b"8.8.8.8", 443, kind=3), 2),
        (request(b"\x08\x08\x08\x08", 443), 2),
        (request(bytes(15) + b"\x01", 443), 2),
        (request(b"example.org", 443, command=2, kind=3), 7),
        (request(b"example.org", 53, command=3, kind=3), 7),
        (request(b"a\0b", 443, kind=3), 8),
        (request(b"*.org", 443, kind=3), 8),
        (request(b"0177.1", 443, kind=3), 8),
        (request(b"", 443, kind=3), 8),
        (request(b"example.org", 0, kind=3), 8),
        (request(b"", 443, kind=7), 8),
        (b"\x04" + request(b"example.org", 443, kind=3)[1:], 1),
    ],
)
async def test_rejected_requests(sent: bytes, code: int) -> None:
    """Each rejected request has the code of its reason, and connects to nothing."""
    gate = make_gate()
    async with open_proxy(gate) as port:
        answer = await ask(port, GREETING + sent)
    assert answer[:4] == bytes((5, 0, 5, code))
    assert gate.connected == {}


async def test_unreachable_destinations() -> None:
    """A refused connection and an unknown name have codes of their own."""
    async with open_proxy(make_gate("127.0.0.1:1", "nothing.invalid:1")) as port:
        assert (await ask(port, GREETING + request(b"\x7f\0\0\x01", 1)))[3] == 5
        assert (await ask(port, GREETING + request(b"nothing.invalid", 1, kind=3)))[3] == 4


async def test_authentication_is_not_offered() -> None:
    """A client that insists on a password is rejected; one that ends early gets no answer."""
    async with open_proxy(make_gate()) as port:
        assert await ask(port, b"\x05\x01\x02") == b"\x05\xff"
        for size in range(1, 8):
            assert (await ask(port, (GREETING + request(b"example.org", 443, kind=3))[:size]))[2:] == b""
