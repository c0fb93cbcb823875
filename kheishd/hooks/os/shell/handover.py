"""Messages with descriptors, from one process to another that was forked before.

A message is its length and its bytes, over a stream of Unix sockets. The descriptors come with its first
bytes. The process that receives them gives them the numbers that the program it becomes expects.

Like ``keeper``, this imports little.

Source: unix(7).
"""

from __future__ import annotations

import _socket
import array
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTH_BYTES = 4

# The descriptors of one message: the kernel allows 253.
MAX_RIGHTS = 250
DESCRIPTOR_BYTES = 4


def frame(data: bytes) -> bytes:
    """Return a message with its length."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def send_message(connection: _socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Send a message and descriptors. Errors: OSError."""
    framed = frame(data)
    for begin in range(0, len(descriptors), MAX_RIGHTS):
        rights = array.array("i", descriptors[begin : begin + MAX_RIGHTS])
        connection.sendmsg([framed[:1]], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        framed = framed[1:]
    connection.sendall(framed)


def receive_message(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """Receive a message and its descriptors. Errors: EOFError if the other end gave it up, OSError."""
    descriptors: list[int] = []

    def read(length: int) -> bytes:
        data = b""
        while len(data) < length:
            space = _socket.CMSG_SPACE(MAX_RIGHTS * DESCRIPTOR_BYTES)
            piece, rights, _, _ = connection.recvmsg(length - len(data), space, _socket.MSG_CMSG_CLOEXEC)
            for _, _, numbers in rights:
                descriptors.extend(memoryview(numbers).cast("i"))
            if not piece:
                raise EOFError
            data += piece
        return data

    return read(int.from_bytes(read(LENGTH_BYTES), "big")), descriptors


def place(descriptors: list[int], numbers: list[int]) -> list[int]:
    """Give descriptors the numbers, for programs that this process starts; return those without a number.

    There are as many numbers as descriptors at the end of the list. All move out of the way first.
    """
    beyond = max(numbers, default=0) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, beyond) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    others = len(moved) - len(numbers)
    for descriptor, number in zip(moved[others:], numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return moved[:others]
