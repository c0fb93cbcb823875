"""A transcript as the contents of generateContent, with the data that Google attached to their parts.

Sources: https://ai.google.dev/gemini-api/docs/thought-signatures and
https://ai.google.dev/gemini-api/docs/function-calling. A part goes back with its own signature, at its place:
signatures of thoughts and calls are stored with these, those of texts and parts that are no items (calls of
Google's own tools, empty texts) in the message's ``placed`` field. Gemini 3 and later models reject a message
with calls without a signature; calls that another model made get a placeholder. The results of a batch are a
content of their own: Vertex AI rejects a text in the same content.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from kheishd.providers.attachments import is_origin, own_fields
from kheishd.providers.chat_messages import PLACEHOLDER_SIGNATURE
from kheishd.providers.draft import PLACED
from kheishd.providers.driver import user_texts
from kheishd.providers.history import DriverHistory, follow
from protocol.structs import Value
from protocol.transcript import Message, Text, Thinking, ToolCall, ToolResult

if TYPE_CHECKING:
    from kheishd.core.context.encodings import MessageEncodings

SIGNATURE: Final = "thoughtSignature"
PART: Final = "part"
"""The key of a stored part that is no item of the transcript."""

# The parts that are items of the transcript, or results of the daemon's tools.
_ITEM_FIELDS: Final = frozenset(("functionCall", "functionResponse"))

_VERSION: Final = re.compile(r"gemini-(\d+)")


def requires_signatures(model: str) -> bool | None:
    """Whether a model rejects calls without a signature; None if its name does not tell."""
    match = _VERSION.search(model)
    if match is not None:
        return int(match[1]) >= 3
    # An alias, such as gemini-flash-latest, is a current model.
    return True if "gemini" in model else None


class ContentRules(Value, frozen=True):
    """The requirements of one route.

    ``origin`` gets its own data back. ``needs_signatures``: the model rejects calls without one.
    ``sends_signatures``: it accepts its own. ``sends_ids``: the server accepts the ids of calls.
    """

    origin: str
    needs_signatures: bool = False
    sends_signatures: bool = True
    sends_ids: bool = True


def read_contents(
    transcript: list[Message], rules: ContentRules, encodings: MessageEncodings | None
) -> ContentHistory:
    """Return the contents of a transcript: of ``user`` and ``model``, which alternate, except behind results.

    ``encodings`` keeps them as JSON.
    """
    return follow(transcript, encodings, rules, lambda: ContentHistory(rules))


class ContentHistory(DriverHistory):
    """The contents of one conversation. ``_id_origin`` gets its own ids back, ``_origin`` its other data."""

    CALL_BYTES = 80

    def __init__(self, rules: ContentRules) -> None:
        super().__init__()
        self._id_origin = rules.origin if rules.sends_ids else ""
        self._origin = rules.origin if rules.sends_signatures else ""
        self._needs_signatures = rules.needs_signatures
        self._calls: dict[str, ToolCall] = {}
        self._ids: dict[str, str] = {}
        self._results: list[ToolResult] = []

    def add(self, message: Message) -> None:
        """Add a message of the transcript."""
        if message.role == "tool":
            self._results += [item for item in message.items if isinstance(item, ToolResult)]
            return
        _append(self.sent, "user", self._result_parts())
        self._results = []
        if message.role == "user":
            _append(self.sent, "user", [{"text": text} for text in user_texts(message.items)])
        else:
            self._take_calls(message)
            _append(self.sent, "model", self._model_parts(message))

    def finish(self, situation: str) -> list[Any]:
        """Return the contents of a request.

        The situation is the end of the last content of the user. Behind the result of a call it is a part of
        that result: a text would begin another turn, and the model would lose the thoughts of this one. A
        paused turn of the model takes nothing more.
        """
        sent = [*self.sent]
        _append(sent, "user", self._result_parts())
        if not situation or not sent or sent[-1]["role"] != "user":
            return sent
        parts = [*sent[-1]["parts"]]
        if _is_result(parts[-1]):
            result = parts[-1]["functionResponse"]
            response = {name: f"{text}\n\n{situation}" for name, text in result["response"].items()}
            parts[-1] = {**parts[-1], "functionResponse": {**result, "response": response}}
        else:
            parts.append({"text": situation})
        sent[-1] = {**sent[-1], "parts": parts}
        return sent

    def _result_parts(self) -> list[dict[str, Any]]:
        """Return the results of the newest calls: one content, in the order of the calls."""
        order = {call_id: index for index, call_id in enumerate(self._calls)}
        parts: list[dict[str, Any]] = []
        for result in sorted(self._results, key=lambda result: order.get(result.call_id, len(order))):
            call = self._calls.get(result.call_id)
            response = {"error" if result.is_error else "output": result.text}
            name = call.name if call is not None else result.name
            parts.append(
                {"functionResponse": {**self._id_of(result.call_id), "name": name, "response": response}}
            )
        return parts

    def _model_parts(self, message: Message) -> list[dict[str, Any]]:
        is_own = is_origin(message.provider_data, self._origin)
        between, signatures = _read_placed(own_fields(message, self._origin).get(PLACED))
        parts: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        for index, item in enumerate(message.items):
            parts += between.pop(index, ())
            signature = signatures.get(index)
            match item:
                case Text(text) if signature:
                    parts.append({"text": text, SIGNATURE: signature})
                case Text(text) if text.strip():
                    parts.append({"text": text})
                case Thinking(text, signature) if signature and is_own:
                    parts.append({"text": text, "thought": True, SIGNATURE: signature})
                case ToolCall(call_id, name, arguments):
                    part = {"functionCall": {**self._id_of(call_id), "name": name, "args": arguments}}
                    signature = own_fields(item, self._origin).get(SIGNATURE)
                    calls.append({**part, SIGNATURE: signature} if signature else part)
                    parts.append(calls[-1])
                case _:
                    # Thoughts without a signature are summaries for people.
                    pass
        parts += [part for later in between.values() for part in later]
        if self._needs_signatures and calls and not any(SIGNATURE in call for call in calls):
            # In a batch, only the first call has a signature.
            calls[0][SIGNATURE] = PLACEHOLDER_SIGNATURE
        return parts

    def _take_calls(self, message: Message) -> None:
        """Remember the calls of a message, and the ids that the provider sent with them.

        Earlier models and versions of Vertex AI send none and reject any. An id that a message repeats is
        rejected, too.
        """
        self._calls = {item.call_id: item for item in message.items if isinstance(item, ToolCall)}
        self._ids = {}
        for call in self._calls.values():
            data = call.provider_data
            own = data.call_id if data is not None and data.origin == self._id_origin else None
            if own and own not in self._ids.values():
                self._ids[call.call_id] = own

    def _id_of(self, call_id: str) -> dict[str, str]:
        return {"id": self._ids[call_id]} if call_id in self._ids else {}


def _append(sent: list[Any], role: str, parts: list[dict[str, Any]]) -> None:
    """Append parts to the last content, if it has this role, or as another one."""
    if not parts:
        return
    last = sent[-1] if sent else None
    if last is not None and last["role"] == role and not any(map(_is_result, (last["parts"][-1], parts[0]))):
        last["parts"] += parts
    else:
        sent.append({"role": role, "parts": parts})


def _is_result(part: dict[str, Any]) -> bool:
    return "functionResponse" in part


def _read_placed(placed: Any) -> tuple[dict[int, list[dict[str, Any]]], dict[int, Any]]:
    """Return the stored parts by the index of the next item, and the signatures of texts by their index."""
    between: dict[int, list[dict[str, Any]]] = {}
    signatures: dict[int, Any] = {}
    for element in placed if isinstance(placed, list) else ():
        match element:
            case {"index": int(index), "part": dict(part)}:
                # In an imported message, it may be a hidden text.
                if not part.get("text") and not part.keys() & _ITEM_FIELDS:
                    between.setdefault(index, []).append(part)
            case {"index": int(index), "thoughtSignature": str(signature)}:
                signatures[index] = signature
            case _:
                pass
    return between, signatures
