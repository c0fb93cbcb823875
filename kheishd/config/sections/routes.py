"""``[routes.<id>]``: providers and models."""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from kheishd.config.credentials import is_credential
from kheishd.config.presets import PRESETS, find_default_driver
from kheishd.config.sections.section import Money, Section
from kheishd.config.toml import KeyPath
from kheishd.config.validation import Problem
from protocol.ids import Id
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.limits.route import MAX_FALLBACKS, MAX_KEYS
from protocol.objects.route import Driver, PresetName
from protocol.objects.secret import SLOT_ID_PATTERN
from protocol.structs import Value

BUILT_IN_ROUTE = "offline"

AUTH_REF_PATTERN = rf"(env|credential):[A-Za-z0-9_][A-Za-z0-9_.@-]{{0,127}}|slot:{SLOT_ID_PATTERN}"

REQUEST_PATH = re.compile(
    r"(/chat/completions|/v1/messages|/responses|/models/[^/]+:(stream)?generateContent)/*$", re.IGNORECASE
)
"""The end of a URL that drivers add to a ``base_url``."""

FRAMING_HEADERS = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""The headers that say how a request is sent, which no setting of a route replaces."""

OPTION_NAMES = (
    "headers",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "reasoning",
    "reasoning_effort",
    "temperature",
    "thinking",
    "tools",
    "top_p",
)
"""Keys of ``options`` that are often written one level too high."""


class ChainRoute(Value, frozen=True):
    """The properties of a route on which its use in a chain depends; no currency: it has no prices."""

    driver: str
    currency: str | None


Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]


class RouteSection(Section, frozen=True, kw_only=True):
    """``[routes.<id>]``: one driver, one model, one reference to a credential."""

    KEY_HINTS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(OPTION_NAMES, "write it into 'options'"),
        **dict.fromkeys(
            ("api_key", "key", "token"), 'set \'auth_ref\' to "slot:NAME" or "env:NAME", which holds it'
        ),
        **dict.fromkeys(("api_base", "endpoint", "url"), "did you mean 'base_url'?"),
        "provider": "did you mean 'driver' or 'preset'?",
    }

    driver: Driver | None = None
    """`"openai"` (default of presets), `"responses"` (of OpenAI), `"anthropic"`, `"google"`, `"offline"`."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    """Model name, as the provider knows it."""

    preset: PresetName | None = None
    """Server whose differences apply, such as `"ollama"`. See contrib/docs/models.md."""

    base_url: str | None = None
    """URL of the API (default: the preset's or provider's); a Unix socket is `http+unix://%2Fa.sock/v1`."""

    auth_ref: str | None = None
    """Where the credential is: `"slot:NAME"`, `"env:NAME"` or `"credential:NAME"`."""

    auth_refs: Annotated[list[str], Meta(max_length=MAX_KEYS)] = []
    """Several credentials instead of `auth_ref`, in order: a key that is refused for now is passed over."""

    auth_header: str | None = None
    """Header of the credential, such as `"api-key"`; `"authorization"` holds a bearer token."""

    ca_file: str | None = None
    """File of certificate authorities to trust (PEM), instead of those of the environment or the system."""

    fallback: Annotated[list[Id], Meta(max_length=MAX_FALLBACKS)] = []
    """Routes to ask, in order, while this one fails. See contrib/docs/routes.md."""

    options: dict[str, Any] = {}
    """Fields added to every request unchanged: `max_tokens`, `temperature`, `headers` …"""

    context_tokens: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = DEFAULT_CONTEXT_TOKENS
    """Size of the model's context window, including the answer."""

    price_input: Money | None = None
    """Price of a million input tokens. With prices, runs report their cost. Requires `price_output`."""

    price_cached_input: Money | None = None
    """Price of a million cached input tokens (default: `price_input`)."""

    price_cache_write: Money | None = None
    """Price of a million tokens that are written to the provider's cache (default: `price_input`)."""

    price_output: Money | None = None
    """Price of a million output tokens. Requires `price_input`."""

    currency: Currency = "USD"
    """Currency of prices and costs."""

    @property
    def effective_driver(self) -> Driver:
        """The driver, or the default one for OpenAI's own API and for presets."""
        driver = self.driver or find_default_driver(self.preset, self.base_url)
        assert driver is not None, "a route without a driver is rejected"
        return driver

    def find_problems(self, path: KeyPath) -> Iterator[Problem]:
        """Yield the problems that the types cannot express."""
        if self.base_url is not None:
            yield from _find_url_problems(self.base_url, (*path, "base_url"))
        if self.driver is None and find_default_driver(self.preset, self.base_url) is None:
            yield Problem(
                path,
                "the key 'driver' is missing; most servers need driver = \"openai\" (only routes to OpenAI "
                "itself, and those with a preset, have a default)",
            )
        if self.preset is not None and self.driver not in (None, "openai", "responses"):
            message = 'presets are for driver = "openai" and driver = "responses"; remove the preset'
            yield Problem((*path, "preset"), message)
        elif self.preset is not None and self.base_url is None and PRESETS[self.preset].base_url is None:
            yield Problem((*path, "base_url"), f'preset = "{self.preset}" requires it')
        if self.ca_file is not None:
            yield from _find_file_problems(self.ca_file, (*path, "ca_file"))
        yield from self._find_key_problems(path)
        if self.auth_header is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", self.auth_header):
            yield Problem((*path, "auth_header"), 'expected only the name of a header, such as "api-key"')
        elif self.auth_header is not None and self.auth_header.lower() in FRAMING_HEADERS:
            yield Problem((*path, "auth_header"), f"'{self.auth_header}' is a header of HTTP itself")
        yield from _find_header_problems(self.options.get("headers", {}), (*path, "options", "headers"))
        if (self.price_input is None) != (self.price_output is None):
            yield Problem(path, "price_input and price_output go together; set both or neither")
        for name in ("price_cached_input", "price_cache_write"):
            if getattr(self, name) is not None and self.price_input is None:
                yield Problem((*path, name), "requires price_input and price_output")
        tools = self.options.get("tools", [])
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            yield Problem((*path, "options", "tools"), "expected a list of tables, one for each tool")
        yield from _find_option_problems(self.options, (*path, "options"))

    def _find_key_problems(self, path: KeyPath) -> Iterator[Problem]:
        references: list[tuple[KeyPath, str]] = [
            ((*path, "auth_refs", index), reference) for index, reference in enumerate(self.auth_refs)
        ]
        if self.auth_ref is not None:
            references.append(((*path, "auth_ref"), self.auth_ref))
        for place, reference in references:
            if not re.fullmatch(AUTH_REF_PATTERN, reference):
                # The message does not repeat the value: it may be a key pasted in the wrong place.
                yield Problem(
                    place, 'expected "slot:NAME", "env:NAME" or "credential:NAME", not the key itself'
                )
        if self.auth_ref is not None and self.auth_refs:
            yield Problem((*path, "auth_refs"), "set either auth_ref or auth_refs")
        if len(set(self.auth_refs)) < len(self.auth_refs):
            yield Problem((*path, "auth_refs"), "names a credential twice")


def find_fallback_problems(
    route_id: str, section: RouteSection, routes: Mapping[str, ChainRoute], path: KeyPath
) -> Iterator[Problem]:
    """Yield the problems of a route's ``fallback``, given all other routes.

    A chain is exactly the list: the ``fallback`` of a route in it does not count, so two routes may name each
    other.
    """
    seen = {route_id}
    is_priced = section.price_input is not None
    currencies = {section.currency} if is_priced else set()
    for index, name in enumerate(section.fallback):
        place, route = (*path, "fallback", index), routes.get(name)
        if name in seen:
            text = "names the route itself" if name == route_id else f"names '{name}' twice"
            yield Problem(place, f"{text}; a chain asks each route once")
        elif route is None:
            known = ", ".join(sorted(routes.keys() - {route_id})) or "none"
            yield Problem(place, f"no route '{name}'; other routes: {known}")
        elif route.driver == "offline" and section.effective_driver != "offline":
            yield Problem(place, f"'{name}' is a stand-in, whose answers are no model's")
        elif is_priced and route.currency is None:
            yield Problem(place, f"'{name}' states no prices, and '{route_id}' does; 0 is a price, too")
        elif route.currency is not None and currencies and route.currency not in currencies:
            yield Problem(place, f"'{name}' has prices in {route.currency}; a chain has one currency")
        if route is not None and route.currency is not None:
            currencies.add(route.currency)
        seen.add(name)


def _find_url_problems(url: str, path: KeyPath) -> Iterator[Problem]:
    from urllib.parse import parse_qsl, unquote, urlsplit

    blanks = "blanks" if re.search(r"\s", url) else "control characters"
    if blanks == "blanks" or not unquote(url).isprintable():
        yield Problem(path, f"contains {blanks}; remove them")
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        is_socket = parts.scheme == "http+unix" and unquote(parts.netloc).startswith("/")
    except ValueError:
        usable = is_socket = False
    if not usable and not is_socket:
        yield Problem(path, "expected http://host[:port]/path, https://... or http+unix://%2Fa.sock/v1")
        return
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if parts.username is not None or parts.password is not None or any(map(is_credential, names)):
        yield Problem(path, "a URL must not contain a credential; set auth_ref")
    elif parts.fragment or (parts.query and names != ["api-version"]):
        yield Problem(
            path,
            "a URL must end with its path; only Azure's ?api-version=... may follow; remove the rest",
        )
    if (end := REQUEST_PATH.search(parts.path)) is not None:
        yield Problem(path, f"ends with {end[1]}, which kheish adds itself; remove it")


def _find_header_problems(headers: Any, path: KeyPath) -> Iterator[Problem]:
    """Yield the problems of ``options.headers``, such as a value that would begin another header."""
    if not isinstance(headers, dict):
        yield Problem(path, "expected a table: names of headers with their values")
        return
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            yield Problem((*path, name), "is no name of a header")
        elif name.lower() in FRAMING_HEADERS:
            yield Problem((*path, name), "is a header of HTTP itself; remove it")
        elif (
            not isinstance(value, str | int | float)
            or not (text := str(value)).isascii()
            or not text.isprintable()
        ):
            yield Problem((*path, name), "expected a text of printable ASCII characters in one line")


def _find_file_problems(file: str, path: KeyPath) -> Iterator[Problem]:
    """Yield the problem of a file of certificate authorities; a directory of them is accepted, too."""
    if not os.path.isabs(file) or not os.access(file, os.R_OK):
        yield Problem(path, "not a readable file; write the absolute path of a PEM file")
    elif os.path.isfile(file) and b"-----BEGIN " not in Path(file).read_bytes():
        yield Problem(path, "the file holds no certificate in PEM form")


def _find_option_problems(options: Any, path: KeyPath) -> Iterator[Problem]:
    """Reject credentials, and values that TOML can express and JSON cannot.

    ``daemon.config`` shows the options, runs pin them, and requests and the journal hold them as JSON.
    """
    if isinstance(options, float) and not isfinite(options):
        yield Problem(path, "JSON has no such number")
    if isinstance(options, date | time):
        yield Problem(path, "JSON has no dates and times; write it in quotes")
    if isinstance(options, list):
        for index, element in enumerate(options):
            yield from _find_option_problems(element, (*path, index))
    if isinstance(options, dict):
        for key, value in options.items():
            if isinstance(value, str) and is_credential(key, value):
                yield Problem((*path, key), "options must not contain a credential; set auth_ref")
            yield from _find_option_problems(value, (*path, key))
