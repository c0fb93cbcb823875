"""Messages with descriptors between processes."""

import _socket
import os

import pytest

from kheishd.hooks.os.shell.handover import LENGTH_BYTES, MAX_RIGHTS, place, receive_message, send_message


@pytest.mark.parametrize("count", [0, 1, MAX_RIGHTS, 2 * MAX_RIGHTS + 3])
def test_a_message_with_descriptors(count: int) -> None:
    """All bytes and descriptors of a message arrive, in their order, and programs do not inherit them."""
    ours, theirs = _socket.socketpair()
    originals = [
        os.open("/", os.O_RDONLY) if n % 2 else os.open("/dev/null", os.O_RDONLY) for n in range(count)
    ]
    send_message(ours, b"x" * 1000, originals)
    ours.sendall(b"next")
    data, descriptors = receive_message(theirs)
    try:
        assert data == b"x" * 1000
        paths = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in descriptors]
        assert paths == ["/" if n % 2 else "/dev/null" for n in range(count)]
        assert not any(map(os.get_inheritable, descriptors))
        assert theirs.recv(10) == b"next"
    finally:
        for descriptor in (*originals, *descriptors):
            os.close(descriptor)
        ours.close()
        theirs.close()


@pytest.mark.parametrize("data", [b"", b"\0\0", (100).to_bytes(LENGTH_BYTES, "big") + b"x" * 99])
def test_a_message_that_ends_early(data: bytes) -> None:
    """A message without its end is none."""
    ours, theirs = _socket.socketpair()
    ours.sendall(data)
    ours.close()
    with pytest.raises(EOFError):
        receive_message(theirs)
    theirs.close()


def test_numbers_that_are_taken() -> None:
    """Descriptors get their numbers even if others of them, or those of this process, have these."""
    originals = [
        os.open("/dev/null", os.O_RDONLY),
        os.open("/dev/zero", os.O_RDONLY),
        os.open("/", os.O_PATH),
    ]
    first, second, third = originals
    kept = place(originals, [first, second])
    try:
        assert [os.readlink(f"/proc/self/fd/{number}") for number in (*kept, first, second)] == [
            "/dev/null",
            "/dev/zero",
            "/",
        ]
        assert not os.path.exists(f"/proc/self/fd/{third}") or third in kept
        assert [os.get_inheritable(number) for number in (*kept, first, second)] == [False, True, True]
    finally:
        for number in (*kept, first, second):
            os.close(number)
