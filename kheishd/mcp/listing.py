"""Lists of a server, row by row: an invalid row is left out, and the others are used.

The MCP library rejects a list as a whole if one row is invalid. So rows are validated before the library
reads the answer, by the library's own types. The reasons stand in the answer's ``_meta``, where the reader of
the list finds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp_types import JSONRPCRequest, JSONRPCResponse, methods

from kheishd.mcp.rows import limit_warnings
from protocol.limits.mcp import MAX_LISTED_SERVER_TOOLS
from protocol.text import sanitize

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from mcp.client._transport import TransportStreams
    from mcp.shared._stream_protocols import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage

WARNINGS_KEY: Final = "kheish/warnings"

MAX_NAME_CHARACTERS: Final = 80
MAX_REASON_CHARACTERS: Final = 160

# The field of a list's rows, the word for one row, and the library's type of the answer, by method.
_LISTS: Final[dict[str, tuple[str, str, type[Any]]]] = {
    "tools/list": ("tools", "tool", types.ListToolsResult),
    "resources/list": ("resources", "resource", types.ListResourcesResult),
    "resources/templates/list": ("resourceTemplates", "template", types.ListResourceTemplatesResult),
    "prompts/list": ("prompts", "prompt", types.ListPromptsResult),
}


class ListScreen:
    """The screen of one connection. ``version`` is the protocol's, once it is negotiated."""

    def __init__(self) -> None:
        self.version = ""
        self._methods: dict[Any, str] = {}

    def wrap(self, streams: TransportStreams) -> TransportStreams:
        """Return the streams of a transport, with this screen between."""
        read, write = streams
        return _ScreenedReader(read, self), _ScreenedWriter(write, self)

    def note(self, message: SessionMessage) -> None:
        """Remember a request for a list."""
        request = message.message
        if isinstance(request, JSONRPCRequest) and request.method in _LISTS and self.version:
            self._methods[request.id] = request.method

    def screen(self, item: SessionMessage | Exception) -> SessionMessage | Exception:
        """Take the invalid rows out of the answer to such a request, in place."""
        response = None if isinstance(item, Exception) else item.message
        request_id = getattr(response, "id", None)
        method = None if request_id is None else self._methods.pop(request_id, None)
        if method is not None and isinstance(response, JSONRPCResponse):
            screen_rows(method, self.version, response.result)
        return item


def screen_rows(method: str, version: str, result: dict[str, Any]) -> None:
    """Take the invalid rows out of a list, in place. Other problems are left to the library."""
    field, noun, _ = _LISTS[method]
    meta = result.get("_meta", {})
    rows = result.get(field)
    if not isinstance(rows, list) or not isinstance(meta, dict):
        return
    warnings: list[str] = []
    if len(rows) > MAX_LISTED_SERVER_TOOLS:
        # Half a million rows in one answer would take seconds, during which the whole daemon waits.
        rows = result[field] = rows[:MAX_LISTED_SERVER_TOOLS]
        warnings.append(f"its {noun}s beyond {MAX_LISTED_SERVER_TOOLS} are left out")
    if _find_problem(method, version, result) is not None:
        if (problem := _find_problem(method, version, {**result, field: []})) is not None:
            return
        valid = []
        for index, row in enumerate(rows):
            problem = _find_problem(method, version, {**result, field: [row]})
            if problem is None:
                valid.append(row)
            else:
                name = row.get("name") if isinstance(row, dict) else None
                quoted = (
                    f"'{sanitize(name)[:MAX_NAME_CHARACTERS]}'" if isinstance(name, str) else f"{index + 1}"
                )
                warnings.append(f"the {noun} {quoted} is left out: {problem}")
        result[field] = valid
    if warnings or WARNINGS_KEY in meta:
        result["_meta"] = {**meta, WARNINGS_KEY: limit_warnings(warnings)}


def _find_problem(method: str, version: str, result: dict[str, Any]) -> str | None:
    """Return why the library would reject a list; None if it would not."""
    field, _, model = _LISTS[method]
    try:
        methods.validate_server_result(method, version, result)
        model.model_validate(result, by_name=False)
    except KeyError:
        return None
    except ValueError as error:
        # Of pydantic, on which the library is built.
        first: dict[str, Any] = error.errors(include_url=False, include_input=False)[0]  # type: ignore[attr-defined]
        path = ".".join(str(part) for part in first["loc"] if part not in (field, 0))
        return sanitize(f"{path}: {first['msg']}".removeprefix(": "))[:MAX_REASON_CHARACTERS]
    return None


class _ScreenedReader:
    """A stream of messages from the server, through a screen."""

    def __init__(self, inner: ReadStream[SessionMessage | Exception], screen: ListScreen) -> None:
        self._inner = inner
        self._screen = screen

    @property
    def last_context(self) -> Any:
        """The context of the last message, for the library."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        return self._screen.screen(await self._inner.receive())

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return self._screen.screen(await anext(self._inner))

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


class _ScreenedWriter:
    """A stream of messages to the server, which a screen reads along."""

    def __init__(self, inner: WriteStream[SessionMessage], screen: ListScreen) -> None:
        self._inner = inner
        self._screen = screen

    async def send(self, item: SessionMessage, /) -> None:
        self._screen.note(item)
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)
