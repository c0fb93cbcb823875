"""A listening port in the network of a sandbox, opened from outside of it.

A process of its own does this, because entering a namespace cannot be undone. It inherits the keeper's socket
to the daemon, and sends the open port over it. The port's number is one that only a privileged process may
use; in the user namespace that owns the network, this process is one.

Like ``keeper``, this imports little.

Source: setns(2), ioctl_ns(2), unix(7).
"""

from __future__ import annotations

import _socket
import ctypes
import fcntl
import os
import sys

CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
NS_GET_USERNS = 0xB701
IP_FREEBIND = 15

BACKLOG = 128


def send_port(control: int, line: str, pid: int, port: int) -> bool:
    """Open a port in the network of a process, and send it over a socket together with a line.

    Return whether that worked; if not, nothing was sent.
    """
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            _send_port(control, line, pid, port)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(helper, 0)
    return status == 0


def _send_port(control: int, line: str, pid: int, port: int) -> None:
    enter_network(pid)
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    # The loopback interface may not be up yet.
    listening.setsockopt(_socket.IPPROTO_IP, IP_FREEBIND, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(BACKLOG)
    descriptor = listening.fileno().to_bytes(4, sys.byteorder)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, control)
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor)
    connection.sendmsg([line.encode() + b"\n"], [rights])


def enter_network(pid: int) -> None:
    """Enter the network of a process, which must not be this one's. Errors: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if os.fstat(network).st_ino == os.stat("/proc/self/ns/net").st_ino:
        raise OSError("the sandbox has no network of its own")
    owner = fcntl.ioctl(network, NS_GET_USERNS)
    namespaces = [(network, CLONE_NEWNET)]
    if os.fstat(owner).st_ino != os.stat("/proc/self/ns/user").st_ino:
        # A process has the rights to enter a network only in the user namespace that owns it.
        namespaces.insert(0, (owner, CLONE_NEWUSER))
    for descriptor, kind in namespaces:
        if libc.setns(descriptor, kind) != 0:
            raise OSError(ctypes.get_errno(), "setns failed")
