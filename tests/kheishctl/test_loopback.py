"""The redirect of a browser to this machine."""

import socket
import threading
from collections.abc import Iterator

import httpx2
import pytest

from kheishctl import loopback
from kheishctl.loopback import LoopbackServer, read_answer


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """Provide a server."""
    with LoopbackServer() as server:
        yield server


def visit(server: LoopbackServer, *targets: str) -> list[int]:
    """Let a browser open these targets while the server waits; return the statuses."""
    origin = server.redirect_uri.removesuffix(loopback.PATH)
    statuses: list[int] = []

    def browse() -> None:
        statuses.extend(httpx2.get(origin + target).status_code for target in targets)

    thread = threading.Thread(target=browse)
    thread.start()
    try:
        server.wait(20)
    finally:
        thread.join()
    return statuses


def test_the_answer_of_a_browser(server: LoopbackServer) -> None:
    """Other requests of the browser do not end the wait."""
    assert visit(server, "/favicon.ico", "/callback?x=1", "/callback?code=a&state=b&iss=c") == [404, 200, 200]
    assert server.wait(0) == {"code": "a", "state": "b", "iss": "c"}


def test_a_refusal_of_the_person(server: LoopbackServer) -> None:
    """A refusal ends the wait with the server's words."""
    with pytest.raises(ValueError, match="the login was refused: access_denied not today"):
        visit(server, "/callback?error=access_denied&error_description=not+today")


def test_no_browser(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends in time, also if something connects and says nothing."""
    monkeypatch.setattr(loopback._Visit, "timeout", 0.01)
    with (
        socket.create_connection(("127.0.0.1", server.server_port)),
        pytest.raises(ValueError, match="did not come back in time"),
    ):
        server.wait(0.05)


@pytest.mark.parametrize(
    "address", ["", "x", "http://127.0.0.1:1/callback?code=a", "http://[/?code=a&state=b"]
)
def test_an_address_without_answer(address: str) -> None:
    """A pasted address without code and state is refused."""
    with pytest.raises(ValueError, match=r"."):
        read_answer(address)


def test_a_fixed_port(server: LoopbackServer) -> None:
    """A port may be chosen; one that is in use is an error."""
    with pytest.raises(OSError, match="in use"):
        LoopbackServer(server.server_port)
