"""A transcript as the messages of chat completions, with the data that the provider attached to them.

Servers attach data under names of their own, and get it back under the same names:

============================ ====================================================================
name                         servers
============================ ====================================================================
``reasoning_content``        DeepSeek, Kimi, GLM, llama.cpp: the text of the thoughts
``reasoning``                vLLM, Ollama, Groq: the same
``reasoning_details``        OpenRouter
``thinking_blocks``          LiteLLM
``provider_specific_fields`` LiteLLM, on messages, calls and functions
``extra_content``            Gemini: a call's ``google.thought_signature``
parts of ``content``         Mistral: thoughts, in their order with texts
============================ ====================================================================

Source of the last one: https://docs.mistral.ai/capabilities/reasoning/; models reason worse without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kheishd.providers.attachments import is_origin, origin_of, own_fields
from kheishd.providers.call_ids import CallIdMap, IdForm, form_for_mistral, form_for_openai
from kheishd.providers.driver import encode, user_texts
from kheishd.providers.history import DriverHistory, follow
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS, Traits
from protocol.structs import Value
from protocol.transcript import Message, Text, Thinking, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.core.context.encodings import MessageEncodings
    from kheishd.kernel.runtime import ModelRequest

THINKING_NAME: Final = "thinking_name"
"""The stored field that holds the name under which the thoughts arrived; their text is in the items."""

SIGNED_FIELDS: tuple[str, ...] = ("reasoning_details", "thinking_blocks", "provider_specific_fields")
"""The stored fields with signed thoughts, such as those of Claude behind a gateway."""

MESSAGE_FIELDS: tuple[str, ...] = (*SIGNED_FIELDS, "extra_content")
CALL_FIELDS: tuple[str, ...] = ("extra_content", "provider_specific_fields")
PART_OF_PARTS: Final = "content.thinking[]"
PART_OF_TEXT: Final = "content.thinking"
"""The names of thoughts that arrived as parts of the content: each with a list of texts, or with one text."""

THINKING_NAMES: Final = ("reasoning_content", "reasoning", PART_OF_PARTS, PART_OF_TEXT)
"""All names under which thoughts arrive."""

SENDS_REASONING_CONTENT: Final = "reasoning_content"
"""The mark of a model that has sent ``reasoning_content``: it may require that on messages with calls."""
SIGNS_CALLS: Final = "thought_signatures"
"""The mark of a model that has signed a call."""

BRIDGE: Final = "OK."
"""The assistant's message between a result and a user's message, for servers that require one."""

FUNCTION_FIELDS: Final = "function"
"""The stored field of a call that holds the data of its function."""

PLACEHOLDER_SIGNATURE: Final = "skip_thought_signature_validator"
"""Google's documented signature for calls that its model did not make."""


class ChatRules(Value, frozen=True):
    """The requirements of one route.

    ``origin`` gets its own data back. ``reasoning_content``: true if every assistant message with calls must
    have that field, false if none may; None: as the model's own messages have it. ``thought_signatures``: a
    message with calls needs a signature. ``id_form`` is the form of call ids from elsewhere.
    ``bridges_results``: a user's message must not follow a result directly. ``reasoning_filler`` is the
    ``reasoning_content`` of a message without thoughts. ``refused`` are fields of messages that are not sent.
    """

    origin: str = ""
    reasoning_content: bool | None = None
    thought_signatures: bool = False
    id_form: IdForm = form_for_openai
    bridges_results: bool = False
    reasoning_filler: str = ""
    refused: tuple[str, ...] = ()


def take_rules(
    request: ModelRequest, base_url: str, options: dict[str, Any], traits: Traits = USUAL_TRAITS
) -> ChatRules:
    """Return the rules of a request, and remove their options from those of the body."""
    pinned = request.pinned
    origin = origin_of(pinned, base_url)
    marks = request.marks.get(origin, ())
    host = urlsplit(base_url).hostname or ""
    is_mistral = host == "mistral.ai" or host.endswith(".mistral.ai")
    is_gemini = host.endswith("googleapis.com") and "gemini" in pinned.model
    call_ids = options.pop("call_ids", "mistral" if is_mistral else None)
    signatures = options.pop("thought_signatures", is_gemini or SIGNS_CALLS in marks)
    needs_reasoning = traits.reasoning_filler is not None or SENDS_REASONING_CONTENT in marks
    reasoning = options.pop("reasoning_content", True if needs_reasoning else None)
    return ChatRules(
        origin=origin,
        reasoning_content=reasoning if isinstance(reasoning, bool) else None,
        thought_signatures=signatures is True,
        id_form=form_for_mistral if call_ids == "mistral" else form_for_openai,
        reasoning_filler=traits.reasoning_filler or "",
        bridges_results=call_ids == "mistral" or traits.bridges_results,
        refused=SIGNED_FIELDS if OUTPUT_ITEMS in traits.omitted else (),
    )


NO_RULES: Final = ChatRules()


def messages(
    instructions: str,
    transcript: list[Message],
    rules: ChatRules = NO_RULES,
    situation: str = "",
    encodings: MessageEncodings | None = None,
) -> list[Any]:
    """Return a transcript as chat messages; consecutive user messages are merged, as templates require.

    The situation is the end of the last message, even if that is the result of a tool: some servers reject
    a user's message there. ``encodings`` keeps the messages as JSON.
    """
    sent = [*follow(transcript, encodings, rules, lambda: ChatHistory(rules)).sent]
    if situation and sent and sent[-1]["role"] in ("user", "tool"):
        sent[-1] = {**sent[-1], "content": f"{sent[-1]['content']}\n\n{situation}"}
    elif situation:
        sent.append({"role": "user", "content": situation})
    return [{"role": "system", "content": instructions}, *sent] if instructions else sent


class ChatHistory(DriverHistory):
    """The chat messages of one conversation."""

    def __init__(self, rules: ChatRules) -> None:
        super().__init__()
        self._rules = rules
        self._ids = CallIdMap(rules.origin, rules.id_form)
        self._needs_reasoning = rules.reasoning_content is True
        self._needs_signatures = rules.thought_signatures

    def learn(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> bool:
        """Learn the calls' ids and what messages with calls need; return false if that is news."""
        needs_reasoning = self._needs_reasoning or (
            self._rules.reasoning_content is None
            and any(
                own_fields(message, self._rules.origin).get(THINKING_NAME) == "reasoning_content"
                for message in messages
            )
        )
        needs_signatures = self._needs_signatures or any(map(self._find_signature, calls))
        needs = (needs_reasoning, needs_signatures)
        if self.count and needs != (self._needs_reasoning, self._needs_signatures):
            return False
        self._needs_reasoning, self._needs_signatures = needs
        return self._ids.add(calls)

    def add(self, message: Message) -> None:
        """Add a message of the transcript."""
        match message.role:
            case "user":
                self._add_user(user_texts(message.items))
            case "assistant":
                self._add_assistant(message)
            case "tool":
                for item in message.items:
                    if isinstance(item, ToolResult):
                        text = f"The tool failed: {item.text}" if item.is_error else item.text
                        call_id = self._ids[item.call_id]
                        self.sent.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _add_user(self, texts: list[str]) -> None:
        content = "\n\n".join(texts)
        if self.sent and self.sent[-1]["role"] == "tool" and self._rules.bridges_results:
            self.sent.append({"role": "assistant", "content": BRIDGE})
        if self.sent and self.sent[-1]["role"] == "user":
            self.sent[-1]["content"] += f"\n\n{content}"
        else:
            self.sent.append({"role": "user", "content": content})

    def _add_assistant(self, message: Message) -> None:
        text = "".join(item.text for item in message.items if isinstance(item, Text))
        calls = [item for item in message.items if isinstance(item, ToolCall)]
        if not text and not calls:
            return
        sent: dict[str, Any] = {"role": "assistant", "content": text or None}
        if calls:
            sent["tool_calls"] = [self._call(call) for call in calls]
            if self._needs_signatures and not any(map(self._find_signature, calls)):
                # In a batch, only the first call has a signature.
                sent["tool_calls"][0]["extra_content"] = {
                    "google": {"thought_signature": PLACEHOLDER_SIGNATURE}
                }
        sent |= self._attached(message)
        if calls and self._needs_reasoning:
            sent.setdefault("reasoning_content", self._rules.reasoning_filler)
        self.sent.append(sent)

    def _call(self, call: ToolCall) -> dict[str, Any]:
        fields = own_fields(call, self._rules.origin)
        own_function = fields.get(FUNCTION_FIELDS)
        function = {
            **(own_function if isinstance(own_function, dict) else {}),
            "name": call.name,
            "arguments": encode(call.arguments).decode(),
        }
        attached = {name: fields[name] for name in CALL_FIELDS if name in fields}
        return {**attached, "id": self._ids[call.call_id], "type": "function", "function": function}

    def _attached(self, message: Message) -> dict[str, Any]:
        """Return the provider's data of a message, as the provider sent it."""
        fields = own_fields(message, self._rules.origin)
        sent = (name for name in MESSAGE_FIELDS if name not in self._rules.refused)
        attached = {name: fields[name] for name in sent if name in fields}
        name = fields.get(THINKING_NAME)
        if name not in THINKING_NAMES:
            # An imported message may have anything there.
            name = None
        if name in (PART_OF_PARTS, PART_OF_TEXT) and self._rules.reasoning_content is not False:
            return {**attached, "content": _make_parts(message, name)}
        if message.provider_data is None and self._rules.reasoning_content:
            # A message of an earlier version, which names no origin: the route's option decides.
            name = "reasoning_content"
        # OpenRouter reads the text from the details.
        repeated = name == "reasoning" and "reasoning_details" in fields
        if name is None or repeated or self._rules.reasoning_content is False:
            return attached
        thought = "".join(item.text for item in message.items if isinstance(item, Thinking))
        return {**attached, name: thought} if thought else attached

    def _find_signature(self, call: ToolCall) -> Any:
        """Return Google's signature of a call, if this origin attached one."""
        if not is_origin(call.provider_data, self._rules.origin):
            return None
        return find_google_signature(own_fields(call, self._rules.origin).get("extra_content"))


def _make_parts(message: Message, name: str) -> list[dict[str, Any]]:
    """Return the thoughts and texts of a message as parts of its content."""
    parts: list[dict[str, Any]] = []
    for item in message.items:
        match item:
            case Thinking(text) if text:
                texts = [{"type": "text", "text": text}]
                parts.append({"type": "thinking", "thinking": texts if name == PART_OF_PARTS else text})
            case Text(text) if text:
                parts.append({"type": "text", "text": text})
            case _:
                pass
    return parts


def find_google_signature(extra_content: Any) -> str | None:
    """Return the signature in Gemini's ``extra_content``; None without one."""
    google = extra_content.get("google") if isinstance(extra_content, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) and signature else None
