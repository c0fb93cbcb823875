"""The common part of the drivers' readers: the draft, the end of the answer, and the provider's errors.

A failure is never an answer: the end of a stream counts only if there is an answer before it. An error object
in any shape is that error, even after the end of the text.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn

from kheishd.core.text.surrogates import join_surrogates
from kheishd.kernel.runtime import ModelFailure
from kheishd.providers.draft import Draft
from kheishd.providers.error_report import is_error_object
from kheishd.providers.lenient import clean_json
from protocol.transcript import Text, ToolCall, Usage

if TYPE_CHECKING:
    from typing import Any

    from kheishd.kernel.runtime import ModelAnswer, ModelEvent
    from kheishd.providers.failures import FailureFactory

MAX_RESTARTS = 8
"""How many times a server may begin an answer again: what was shown of it cannot be taken back."""

MAX_MODEL_CHARACTERS = 200
"""The stored part of the name of the model that answered."""

REFUSAL = "The model refused to answer."
"""The text of a refusal without an explanation, so that its message is not empty."""


class DraftReader(ABC):
    """A reader of one answer into a draft. A driver's reader derives from it and processes the events."""

    def __init__(self, failures: FailureFactory, origin: str = "") -> None:
        self.done = False
        self.failed = False
        self.situation = ""
        self._failures = failures
        self._origin = origin
        self._draft = Draft(origin=origin)
        self._usage = Usage()
        self._model: str | None = None
        self._stop: str | None = None
        self._explanation = ""
        self._understood = False
        self._unknown: bytes | None = None
        self._restarts = 0

    @property
    def settled(self) -> bool:
        """Whether the answer has its end, and only side information may follow."""
        return self._stop is not None

    @abstractmethod
    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""

    def events(self, batch: list[bytes]) -> None:
        """Process the data of consecutive events until the answer is done. Errors: ModelFailure."""
        for data in batch:
            if self.done:
                return
            self.event(data)

    def take(self) -> list[ModelEvent]:
        """Return the deltas since the last call."""
        return self._draft.take()

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        if self.failed or (self._stop is None and not self._draft.full):
            return None
        if self._stop == "refusal":
            has_text = self._draft.has_text
            text = self._explanation or ("" if has_text else REFUSAL)
            self._explanation = ""
            if text:
                self._draft.write("text", f"\n\n{text}" if has_text else text)
        self._draft.complete_characters()
        model = None if self._model is None else join_surrogates(self._model[:MAX_MODEL_CHARACTERS])
        try:
            answer = self._draft.finish(self._stop or "length", self._usage, model)
        except ModelFailure as failure:
            failure.usage = self._usage
            raise
        is_empty = not any(
            isinstance(item, ToolCall) or (isinstance(item, Text) and item.text.strip())
            for item in answer.items
        )
        if is_empty and answer.stop_reason != "pause":
            raise self._describe_emptiness(answer)
        return answer

    def fail(self, error: Any) -> NoReturn:
        """Fail because of an error object of the provider. Errors: ModelFailure."""
        self.failed = True
        raise self._failures.by_error(error)

    def fail_event(self, data: bytes) -> NoReturn:
        """Fail because of an event, or a body, that reports an error. Errors: ModelFailure."""
        self.failed = True
        raise self._failures.by_body(data)

    def _restart_draft(self) -> None:
        """Drop the first half of an answer that its server began again. Errors: ModelFailure."""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise self._failures.broke("the answer was begun again and again", "bad_response")
        self._draft, self._stop = Draft(origin=self._origin), None

    def _check_unknown(self, data: bytes) -> None:
        """Fail if data in the place of an answer is an error; else remember it. Errors: ModelFailure."""
        if is_error_data(data):
            self.fail_event(data)
        self._unknown = self._unknown or data

    def _malformed(self, problem: str, data: bytes) -> ModelFailure:
        """Return the failure of data that cannot be decoded. Errors: ModelFailure if it is an error."""
        self._check_unknown(data)
        return self._failures.malformed(problem, data)

    def _describe_emptiness(self, answer: ModelAnswer) -> ModelFailure:
        if not self._understood and self._unknown is not None:
            return self._failures.by_body(self._unknown)
        if answer.stop_reason == "length":
            problem = "the model used its whole output limit before the first word; raise the route's limit"
        elif answer.items:
            problem = "it has reasoning only, and no text"
        else:
            problem = "it ended without any text"
        failure = self._failures.broke(f"the model's answer is empty: {problem}", "empty_answer")
        return ModelFailure(failure.reason, failure.message, retryable=True, usage=answer.usage)


def is_error_data(data: bytes) -> bool:
    """Whether data that is no part of an answer is an error object; anything may follow the object."""
    try:
        decoded, _ = json.JSONDecoder(strict=False).raw_decode(data.decode().lstrip())
        return is_error_object(clean_json(decoded))
    except (ValueError, RecursionError):
        return False
