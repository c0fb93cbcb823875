"""The target of a schedule or of a trigger: a conversation or a session, and its task there."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.ids import Id
from protocol.limits.names import MAX_SENDER_BYTES
from protocol.limits.skill import MAX_SKILL_ARGUMENTS_BYTES, MAX_SKILL_NAME_BYTES
from protocol.limits.wake import MAX_WAKE_PROMPT_BYTES
from protocol.objects.run import Name


class WakeTarget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A target that the daemon wakes: it gets an input that nobody typed.

    The address is either ``session_id``, or ``agent`` with ``sender`` (default: ``user``), whose conversation
    is created if there is none. The task is either ``prompt``, or ``skill`` with ``arguments``.
    """

    agent: Name | None = None
    sender: Annotated[str, Meta(min_length=1, max_length=MAX_SENDER_BYTES)] | None = None
    session_id: Id | None = None
    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_WAKE_PROMPT_BYTES)] | None = None
    skill: Annotated[str, Meta(min_length=1, max_length=MAX_SKILL_NAME_BYTES)] | None = None
    arguments: Annotated[str, Meta(max_length=MAX_SKILL_ARGUMENTS_BYTES)] = ""
