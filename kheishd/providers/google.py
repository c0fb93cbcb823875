"""Google's generateContent, streamed, as the Gemini API and Vertex AI speak it.

Source: https://ai.google.dev/api/generate-content. Each chunk is a response with a piece of the answer; the
stream has CRLF lines and ends without a mark. Every part of an answer may be missing or unknown without an
error, and fields may have the names of protocol buffers (``finish_reason``).

Options of a route go into the request unchanged, except ``headers`` (added to the head), ``tools`` (added to
kheish's own), ``generationConfig`` and ``toolConfig`` (merged with kheish's fields), and
``thought_signatures``: whether a message with calls needs a signature, for models whose name does not tell.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import Raw, Struct

from kheishd.config.presets import BASE_URLS
from kheishd.core.text.surrogates import join_surrogates
from kheishd.kernel.runtime import ModelFailure
from kheishd.providers.answer_reader import DraftReader
from kheishd.providers.attachments import origin_of
from kheishd.providers.chat_messages import SIGNS_CALLS
from kheishd.providers.draft import Block
from kheishd.providers.driver import HttpRequest, body_options, encode, encode_body, token_count
from kheishd.providers.error_report import is_error
from kheishd.providers.google_contents import (
    PART,
    SIGNATURE,
    ContentRules,
    read_contents,
    requires_signatures,
)
from kheishd.providers.google_options import make_config, make_tools, take_object
from kheishd.providers.lenient import LenientDecoder, SideInformation, convert, load_json
from kheishd.providers.traits import USUAL_TRAITS, Traits
from protocol.transcript import Usage

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelAnswer, ModelRequest
    from kheishd.providers.failures import FailureFactory

BASE_URL = BASE_URLS["google"]
VERSION_PATH: Final = "/v1beta"

STOP_REASONS: Final = {
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    # The loop of Google's own tools was stopped before the answer.
    "TOO_MANY_TOOL_CALLS": "pause",
    "SAFETY": "refusal",
    "RECITATION": "refusal",
    "LANGUAGE": "refusal",
    "BLOCKLIST": "refusal",
    "PROHIBITED_CONTENT": "refusal",
    "SPII": "refusal",
    "MODEL_ARMOR": "refusal",
    "ESCALATION": "refusal",
    "IMAGE_SAFETY": "refusal",
    "IMAGE_PROHIBITED_CONTENT": "refusal",
    "IMAGE_RECITATION": "refusal",
}
"""Finish reasons with a meaning of their own; all others (``STOP``, ...) are an ordinary end."""

FAILURES: Final = {
    "MALFORMED_FUNCTION_CALL": "bad_response",
    "UNEXPECTED_TOOL_CALL": "bad_response",
    "MALFORMED_RESPONSE": "bad_response",
    "NO_IMAGE": "bad_response",
    "IMAGE_OTHER": "bad_response",
    "OTHER": "bad_response",
    "MISSING_THOUGHT_SIGNATURE": "bad_request",
    "PUP_LIMITED_DISABLED": "unauthorized",
}
"""Finish reasons that are failures, with the reason of the failure."""

# The request.


def post(
    request: ModelRequest, base_url: str, secret: str | None, traits: Traits = USUAL_TRAITS
) -> HttpRequest:
    """Return the request to send to a server with these traits."""
    options, headers = body_options(request, traits)
    config = make_config(request, take_object(options, "generationConfig"), traits)
    tool_config = take_object(options, "toolConfig")
    origin = origin_of(request.pinned, base_url)
    is_signing = requires_signatures(request.pinned.model)
    if is_signing is None:
        is_signing = SIGNS_CALLS in request.marks.get(origin, ())
    needs_signatures = options.pop("thought_signatures", traits.needs_signatures or is_signing)
    rules = ContentRules(
        origin,
        needs_signatures=needs_signatures is True,
        sends_signatures=SIGNATURE not in traits.omitted,
        sends_ids="call_ids" not in traits.omitted,
    )
    history = read_contents(request.messages, rules, request.encodings)
    tools = make_tools(request.tools, history.called, options)
    if tools and request.withheld:
        tool_config["functionCallingConfig"] = {"mode": "NONE"}
    body = {
        **options,
        "contents": history.finish(request.situation),
        **(
            {"systemInstruction": {"parts": [{"text": request.instructions}]}} if request.instructions else {}
        ),
        **({"generationConfig": config} if config else {}),
        **({"tools": tools} if tools else {}),
        **({"toolConfig": tool_config} if tools and tool_config else {}),
    }
    # A project of Vertex AI has access tokens, everything else has keys.
    header = "authorization" if "/projects/" in base_url else "x-goog-api-key"
    headers |= traits.make_auth_headers(secret, header)
    return HttpRequest(make_url(base_url, request.pinned.model), headers, encode_body(body, "contents"))


def make_url(base_url: str, model: str) -> str:
    """Return the URL of a model, which may be named with its collection. The query of a base URL is kept.

    Errors: ModelFailure for a name that would lead to another path of the server.
    """
    if not {".", ".."}.isdisjoint(model.split("/")):
        raise ModelFailure("bad_request", "the model's name has '.' or '..' between slashes", retryable=False)
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/models") or VERSION_PATH
    name = quote(model if "/" in model else f"models/{model}", safe="/:@")
    query = f"{parts.query}&alt=sse" if parts.query else "alt=sse"
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/{name}:streamGenerateContent", query, ""))


# The answer.


class GoogleCall(Struct, gc=False):
    """A call of a function. Gemini sends it whole, often without id and without arguments."""

    id: str | None = None
    name: str | None = None
    args: Any = None


class GooglePart(Struct, rename="camel", gc=False):
    """A part of the answer. Of the kinds that are no items, only the data is kept, to be sent back."""

    text: str | None = None
    thought: Any = None
    thought_signature: str | None = None
    function_call: GoogleCall | None = None
    executable_code: Any = None
    code_execution_result: Any = None
    tool_call: Any = None
    tool_response: Any = None
    inline_data: Any = None


_OPAQUE: Final = {
    "executable_code": "executableCode",
    "code_execution_result": "codeExecutionResult",
    "tool_call": "toolCall",
    "tool_response": "toolResponse",
    "inline_data": "inlineData",
}


class GoogleContent(Struct, gc=False):
    """The content of a candidate."""

    parts: list[GooglePart] | None = None


class GoogleCandidate(Struct, rename="camel", gc=False):
    """One of the answers; only the first is requested."""

    content: GoogleContent | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None


class PromptFeedback(SideInformation, rename="camel"):
    """The reason why a prompt was blocked; then there are no candidates."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class GoogleUsage(Struct, rename="camel"):
    """The usage until this chunk. The prompt includes cached tokens, but not those of Google's own tools."""

    prompt_token_count: float | None = None
    cached_content_token_count: float | None = None
    candidates_token_count: float | None = None
    thoughts_token_count: float | None = None
    tool_use_prompt_token_count: float | None = None


class GoogleChunk(Struct, rename="camel", gc=False):
    """A response, or a piece of it. Only the last usage is decoded."""

    candidates: list[GoogleCandidate] | None = None
    usage_metadata: Raw = Raw()
    prompt_feedback: PromptFeedback | None = None
    model_version: str | None = None
    error: Any = None


_chunk = LenientDecoder(GoogleChunk)
_chunks = LenientDecoder(list[GoogleChunk])

# A field under its name of protocol buffers.
_SNAKE_CASE: Final = re.compile(rb'"[a-z]+_[a-z_]+"\s*:')


def reader(failures: FailureFactory, origin: str = "") -> GoogleReader:
    """Return a reader for one answer of this origin."""
    return GoogleReader(failures, origin)


class GoogleReader(DraftReader):
    """Reader of one answer: chunks with parts, of which the last one has the finish reason."""

    def __init__(self, failures: FailureFactory, origin: str = "") -> None:
        super().__init__(failures, origin)
        self._counted = Raw()
        self._opened_calls = 0
        # Whether anything came after a finish reason, and whether text or a call is the newest part.
        self._goes_on = False
        self._is_answered = False

    @property
    def settled(self) -> bool:
        """Whether the answer has its end, and only side information may follow.

        A finish reason may also come with every chunk, before the answer, or between the rounds of Google's
        own tools. Then only the end of the stream is the end.
        """
        return self._stop == "refusal" or (self._stop is not None and not self._goes_on and self._is_answered)

    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        try:
            chunk: GoogleChunk = _chunk.decode(data)
            if not chunk.usage_metadata and _SNAKE_CASE.search(data):
                # Chunks of Google itself have a usage, under its name in JSON.
                chunk = convert(load_json(data), GoogleChunk)
        except ValueError:
            if data == b"[DONE]":
                self.done = True
                if not self._understood:
                    self._stop = "end"
                return
            if not data.strip():
                # A heartbeat.
                return
            raise self._malformed("something that is no response of generateContent", data) from None
        self._take_in(chunk, data)

    def whole(self, body: bytes) -> None:
        """Process an answer that came as one JSON value: a response, or a list of chunks.

        Errors: ModelFailure.
        """
        try:
            chunks = _chunks.decode(body) if body.startswith(b"[") else [_chunk.decode(body)]
            if _SNAKE_CASE.search(body):
                value = load_json(body)
                chunks = convert(value if isinstance(value, list) else [value], list[GoogleChunk])
        except ValueError:
            raise self._malformed("something that is no response of generateContent", body) from None
        for chunk in chunks:
            self._take_in(chunk, body)
        if self._stop is None and not self._draft.empty:
            self._stop = "end"
        self.done = True

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        self._usage = _usage(self._counted)
        return super().end()

    def _take_in(self, chunk: GoogleChunk, data: bytes) -> None:
        if chunk.error is not None and is_error(chunk.error):
            self.fail(chunk.error)
        usage = chunk.usage_metadata
        if len(usage) > len("null"):
            self._counted = usage
        if chunk.model_version is not None:
            self._model = chunk.model_version
        if chunk.candidates:
            # Only one candidate is requested: it has the index 0, or none.
            for candidate in chunk.candidates:
                if not candidate.index:
                    self._candidate(candidate)
                    break
        elif (feedback := chunk.prompt_feedback) is not None and feedback.block_reason:
            self._understood, self._stop = True, "refusal"
            default = f"The provider blocked the prompt ({feedback.block_reason})."
            self._explanation = feedback.block_reason_message or default
        elif not usage:
            self._check_unknown(data)
        if self._draft.full:
            self.done = True

    def _candidate(self, candidate: GoogleCandidate) -> None:
        self._understood = True
        content = candidate.content
        if content is not None and content.parts:
            if self._stop not in (None, "refusal") and any(map(_has_content, content.parts)):
                self._stop, self._goes_on = None, True
            for part in content.parts:
                self._part(part)
        if candidate.finish_reason:
            self._finish(candidate.finish_reason.upper(), candidate.finish_message)

    def _part(self, part: GooglePart) -> None:
        signature = part.thought_signature
        if signature and not signature.isascii():
            signature = join_surrogates(signature)
        if part.function_call is not None:
            self._open_call(part.function_call, signature)
        elif part.text and not signature:
            self._is_answered = True
            self._draft.write("thinking" if part.thought else "text", part.text)
        elif signature and part.thought and part.text is not None:
            block = self._draft.open(Block("thinking"))
            self._draft.extend(block, part.text)
            self._draft.sign(block, signature)
        elif signature and part.text:
            self._is_answered = True
            block = self._draft.open(Block("text"))
            self._draft.extend(block, part.text)
            self._draft.place(block, SIGNATURE, signature)
        elif signature or part.text is None:
            self._keep(part, signature)

    def _open_call(self, call: GoogleCall, signature: str | None) -> None:
        provider_id = call.id or ""
        block = Block(
            "call",
            call_id=provider_id or f"call_{self._opened_calls}",
            name=call.name or "",
            provider_id=provider_id,
        )
        self._opened_calls += 1
        self._is_answered = True
        if signature:
            block.attached.add(SIGNATURE, signature)
            self._draft.marks.add(SIGNS_CALLS)
        args = call.args if call.args is not None else {}
        self._draft.extend(self._draft.open(block), args if isinstance(args, str) else encode(args).decode())

    def _keep(self, part: GooglePart, signature: str | None) -> None:
        """Keep a part that is no item, such as a call of Google's own tools or an empty text."""
        kept = {name: value for field, name in _OPAQUE.items() if (value := getattr(part, field)) is not None}
        if kept:
            self._is_answered = False
        # The answer is text: an image goes back only if its signature is needed.
        if not signature and kept.keys() <= {"inlineData"}:
            return
        if signature:
            kept = {
                **(kept or {"text": ""}),
                **({"thought": True} if part.thought else {}),
                SIGNATURE: signature,
            }
        self._draft.place(self._draft.open(Block("opaque")), PART, kept)

    def _finish(self, reason: str, message: str | None) -> None:
        if reason in FAILURES:
            self.failed = True
            described = f"{reason}: {message}" if message else reason
            failure = self._failures.broke(f"the model's answer failed ({described})", FAILURES[reason])
            failure.usage = _usage(self._counted)
            raise failure
        stop = STOP_REASONS.get(reason, "end")
        if stop == "refusal":
            self._explanation = message or f"The model refused to answer ({reason})."
        # A refusal stays one, and the default value of the field is no reason.
        if self._stop != "refusal" and reason != "FINISH_REASON_UNSPECIFIED":
            self._stop = stop


def _has_content(part: GooglePart) -> bool:
    return bool(part.text) or part.function_call is not None


def _usage(encoded: Raw) -> Usage:
    try:
        counted: GoogleUsage = convert(load_json(bytes(encoded)), GoogleUsage)
    except ValueError:
        counted = GoogleUsage()
    thoughts = token_count(counted.thoughts_token_count)
    return Usage(
        input_tokens=token_count(counted.prompt_token_count)
        + token_count(counted.tool_use_prompt_token_count),
        output_tokens=token_count(counted.candidates_token_count) + thoughts,
        cached_input_tokens=token_count(counted.cached_content_token_count),
        reasoning_tokens=thoughts,
    )
