"""The redirect of a browser to this machine: the last step of a login in the browser."""

from __future__ import annotations

import time
from html import escape
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final
from urllib.parse import parse_qsl, urlsplit

PATH: Final = "/callback"

# A connection that sends nothing is closed, so that it does not keep the browser out.
SILENCE_SECONDS: Final = 5.0


def read_answer(url: str) -> dict[str, str]:
    """Return the parameters of the address to which the browser was sent. Errors: ValueError."""
    fields = dict(parse_qsl(urlsplit(url.strip()).query, max_num_fields=32))
    if "error" in fields:
        note = fields.get("error_description", "")
        raise ValueError(f"the login was refused: {fields['error']} {note}".rstrip())
    if not fields.get("code") or not fields.get("state"):
        raise ValueError("the address has no 'code' and 'state'; it is the one that the browser shows last")
    return {name: fields[name] for name in ("code", "state", "iss") if name in fields}


class _Visit(BaseHTTPRequestHandler):
    """One request of the browser."""

    server: LoopbackServer
    timeout = SILENCE_SECONDS

    def do_GET(self) -> None:
        """Take the answer, and show the person that the login is over."""
        if urlsplit(self.path).path != PATH:
            self.send_error(404)
            return
        try:
            read_answer(self.path)
            text, self.server.target = "You are logged in to the server. Close this window.", self.path
        except ValueError as error:
            text = f"This did not work: {error}"
            if "error=" in self.path:
                self.server.target = self.path
        body = f"<!doctype html><meta charset=utf-8><title>kheish</title><p>{escape(text)}</p>".encode()
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write no log: the address holds the code."""


class LoopbackServer(HTTPServer):
    """A server for one redirect, on a port of this machine. ``target`` is what the browser asked for.

    Without a ``port``, a free one is used. Errors: OSError if the port is in use.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Visit)
        self.target: str | None = None

    @property
    def redirect_uri(self) -> str:
        """The address to which the browser is sent back."""
        return f"http://127.0.0.1:{self.server_port}{PATH}"

    def wait(self, seconds: float) -> dict[str, str]:
        """Return the answer of the browser. Errors: ValueError if it does not come, or is a refusal."""
        deadline = time.monotonic() + seconds
        while self.target is None:
            self.timeout = deadline - time.monotonic()
            if self.timeout <= 0:
                raise ValueError("the browser did not come back in time; begin again")
            self.handle_request()
        return read_answer(self.target)
