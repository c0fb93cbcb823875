"""Addresses of APIs: the URL of a request from a route's ``base_url``, and Unix sockets.

A Unix socket is written as a host: ``http+unix://%2Frun%2Fmodel.sock/v1`` is the path ``/v1`` of the server
at ``/run/model.sock``.
"""

import re
from urllib.parse import unquote, urlsplit, urlunsplit

UNIX_SCHEME = "http+unix"


def join_path(base_url: str, path: str) -> str:
    """Return the URL of a path below a base URL, whose query stays at the end."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}{path}", fragment=""))


def split_socket(url: str) -> tuple[str | None, str]:
    """Return the socket's path, None for TCP, and the URL that is requested through it."""
    scheme, separator, rest = url.partition("://")
    if scheme != UNIX_SCHEME or not separator:
        return None, url
    host, slash, path = rest.partition("/")
    return unquote(host), f"http://localhost{slash}{path}"


def find_server(url: str) -> str:
    """Return a URL without its path: its scheme and its host, or its socket."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{re.split('[/?#]', rest, maxsplit=1)[0]}"


def host_of(url: str) -> str:
    """Return the host and port of a URL, or the path of its socket, for messages; never user or password."""
    socket, _ = split_socket(url)
    if socket is not None:
        return socket
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "the provider"
    except ValueError:
        return "the provider"


def path_of(url: str) -> str:
    """Return the path of a request's URL, for messages; without its query."""
    return f"/{url.partition('://')[2].partition('/')[2].partition('?')[0]}"


def target_of(url: str) -> str:
    """Return the path of a request's URL with its query, as the request names it."""
    parts = urlsplit(split_socket(url)[1])
    return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
