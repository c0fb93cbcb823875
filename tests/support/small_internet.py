"""An internet of one machine: a daemon in a network of its own, next to a server with a public address.

``SmallInternet.before`` starts a program in this network, with the server beside it. The server answers every
name with its address, and serves HTTP and HTTPS; it logs each name that it is asked for, and each page.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

ADDRESS = "8.8.4.2"

# The server's network exists once it differs from this one.
SETUP = """
set -e
mount --bind "$1" /etc/resolv.conf
ip link set lo up
unshare --net "$2" -m tests.support.small_internet "$3" &
while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add near type veth peer name far netns $!
nsenter --target $! --net ip address add 8.8.4.2/24 dev far
nsenter --target $! --net ip link set lo up
nsenter --target $! --net ip link set far up
ip address add 8.8.4.1/24 dev near
ip link set near up
while [ ! -e "$3/ready" ]; do sleep 0.01; done
shift 3
exec "$@"
"""


class SmallInternet:
    """The server's ``log``, and the file with its certificate authority."""

    def __init__(self, directory: Path) -> None:
        missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
        if missing:
            pytest.skip(f"this machine has no {', '.join(missing)}")
        unshare = ["unshare", "--mount", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        done = subprocess.run([*unshare, "true"], capture_output=True, check=False, text=True)
        if done.returncode != 0:
            pytest.skip(f"networks cannot be made here: {done.stderr.strip()}")
        self._directory = directory
        self.authority = directory / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        names = ("a.example", "b.example", "*.wild.example", "denied.example")
        authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(directory / "cert.pem"))
        resolver = directory / "resolv.conf"
        resolver.write_text(f"nameserver {ADDRESS}\noptions timeout:1 attempts:1\n")
        arguments = (str(resolver), sys.executable, str(directory))
        self.before = (*unshare, "sh", "-c", SETUP, "sh", *arguments)

    def read_log(self) -> list[str]:
        """Return what reached the server: ``dns NAME`` and ``get URL``."""
        return (self._directory / "log").read_text().splitlines()


def main(directory: Path) -> None:
    """Serve until the program that was started beside this ends."""
    import ctypes

    ctypes.CDLL(None).prctl(1, 9)
    log = (directory / "log").open("a", buffering=1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
            log.write(f"get {scheme}://{self.headers['host']}{self.path}\n")
            body = json.dumps({"path": self.path}).encode()
            location = self.path.partition("?to=")[2]
            self.send_response(302 if location else 200)
            if location:
                self.send_header("location", location)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "cert.pem")
    plain, secure = ThreadingHTTPServer(("", 80), Handler), ThreadingHTTPServer(("", 443), Handler)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("", 53))
    for server in (plain, secure):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    (directory / "ready").touch()
    while True:
        query, client = names.recvfrom(1_000)
        labels, position = [], 12
        while query[position]:
            labels.append(query[position + 1 : position + 1 + query[position]].decode())
            position += 1 + query[position]
        log.write(f"dns {'.'.join(labels)}\n")
        question = query[12 : position + 5]
        is_v4 = question[-4:-2] == b"\0\x01"
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(ADDRESS)
        head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_v4), 0, 0)
        names.sendto(head + question + (record if is_v4 else b""), client)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
