"""Events of lifecycle hooks: failures, in the daemon's stream, and effects on runs, in the session's."""

from typing import Any

from protocol.journal.envelope import Event
from protocol.objects.hook import HookEvent, HookFailurePolicy
from protocol.transcript import InputOrigin


class HookFailed(Event, frozen=True, tag="hook_failed"):
    """A hook has failed for an event, after all its attempts.

    ``on_session`` and ``on_run`` are those of the event. ``payload`` is the beginning of the hook's input,
    without secrets. ``dropped`` are the ids of older failures that the store no longer keeps.
    """

    dead_letter_id: str
    hook: str
    event: HookEvent
    subject: str
    invocation_key: str
    policy: HookFailurePolicy
    problem: str
    attempts: int
    payload: str
    on_session: str | None = None
    on_run: str | None = None
    dropped: list[str] = []


class HookFailureResolved(Event, frozen=True, tag="hook_failure_resolved"):
    """A client has noted that the failure of a hook is dealt with."""

    dead_letter_id: str
    note: str = ""


class HookContextAdded(Event, frozen=True, tag="hook_context_added"):
    """A hook has added a text to the transcript; ``invocation_key`` is that of its event."""

    hook: str
    invocation_key: str
    text: str
    origin: InputOrigin
    source: str


class CallInputChanged(Event, frozen=True, tag="call_input_changed"):
    """A hook has changed the input of a call that is not judged yet."""

    call_id: str
    hook: str
    updated_input: dict[str, Any]
