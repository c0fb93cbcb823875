"""Raw trio: echo all received bytes."""

import sys

import trio


async def echo(stream: trio.SocketStream) -> None:
    """Serve one connection."""
    async with stream:
        while received := await stream.receive_some(65536):
            await stream.send_all(received)


async def main(path: str) -> None:
    """Listen on a Unix socket."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(path)
    listener.listen(4096)
    await trio.serve_listeners(echo, [trio.SocketListener(listener)])


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
