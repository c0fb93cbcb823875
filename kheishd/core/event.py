"""Events on the bus: patterns of sources, the rights to publish, and the record of an event. Pure.

A pattern is a source, or the beginning of sources followed by ``*``. The beginning of a source may be
reserved: ``agent:<name>:`` for the agent of this name, its topic ``done`` for the daemon, and
``token:<id>:`` for a token that is limited to agents or senders.
"""

from collections.abc import Collection
from typing import Any, Final

from msgspec.structs import replace

from protocol.errors.event import EventSourceReserved
from protocol.events.event import EventAwaited, EventDelivered, EventPublished, EventWaitEnded
from protocol.journal.envelope import Envelope
from protocol.objects.event import AGENT_PREFIX, DONE_TOPIC, TOKEN_PREFIX, EventWait, Publication
from protocol.objects.run import ENDED
from protocol.objects.trigger import Scalar


def matches(pattern: str, source: str) -> bool:
    """Whether a pattern matches a source."""
    return source.startswith(pattern[:-1]) if pattern.endswith("*") else source == pattern


def listener_key(pattern: str) -> tuple[str, str]:
    """Return the parts of a pattern by which listeners are found: its kind, and its text without ``*``."""
    return ("prefix", pattern[:-1]) if pattern.endswith("*") else ("exact", pattern)


def passes(conditions: dict[str, Scalar], payload: Any) -> bool:
    """Whether a payload is an object with these values; without conditions any payload passes."""
    if not conditions:
        return True
    return isinstance(payload, dict) and all(
        name in payload and type(payload[name]) is type(value) and payload[name] == value
        for name, value in conditions.items()
    )


def done_source(agent: str) -> str:
    """Return the source of the events that tell of the ends of an agent's runs."""
    return f"{AGENT_PREFIX}{agent}:{DONE_TOPIC}"


def agent_source(agent: str, topic: str) -> str:
    """Return the source of an agent's own events. Errors: EventSourceReserved.

    A topic has no colon, so that no agent's topic looks like the topic of an agent with a longer name.
    """
    if topic == DONE_TOPIC or ":" in topic:
        raise EventSourceReserved(f"the topic '{topic}' is reserved; a topic has no ':' and is not 'done'")
    return f"{AGENT_PREFIX}{agent}:{topic}"


def find_dead_pattern(pattern: str, conditions: dict[str, Scalar], agents: Collection[str]) -> str | None:
    """Return why no event of today's agents can pass a trigger; None if one may.

    Programs publish under any other source, so only the sources of agents are known.
    """
    kind, stem = listener_key(pattern)
    if not stem.startswith(AGENT_PREFIX):
        return None
    if kind == "exact":
        name, _, topic = stem.removeprefix(AGENT_PREFIX).rpartition(":")
        if not name or not topic:
            return f"the sources of agents are 'agent:NAME:TOPIC'; did you mean '{stem.rstrip(':')}:*'?"
        if name not in agents:
            return f"there is no agent '{name}', so nothing publishes '{pattern}' today"
        wrong = [name for name in conditions if name not in DONE_FIELDS] if topic == DONE_TOPIC else []
        if wrong:
            return (
                f"the event of a run's end has no field '{wrong[0]}'; a filter has {', '.join(DONE_FIELDS)}"
            )
        status = conditions.get("status")
        if topic == DONE_TOPIC and status is not None and status not in ENDED:
            return f"no run ends as '{status}'; the statuses are {', '.join(sorted(ENDED))}"
    elif not any(
        own.startswith(stem) or stem.startswith(own) for own in (f"{AGENT_PREFIX}{name}:" for name in agents)
    ):
        return f"no agent's name fits '{pattern}', so nothing publishes such events today"
    return None


DONE_FIELDS: Final = ("status", "session_id", "run_id", "sender", "output")
"""The fields of the event of a run's end that are plain values."""


def require_publishable(source: str, token_id: str | None) -> None:
    """Require that a client may publish under a source. Errors: EventSourceReserved.

    Args:   ``token_id`` is that of a token that is limited to agents or senders; None for other callers.
    """
    field = "$.params.source"
    own = f"{TOKEN_PREFIX}{token_id}:"
    if token_id is not None and not source.startswith(own):
        raise EventSourceReserved(f"this token publishes only sources that begin with '{own}'", field=field)
    if source.startswith(AGENT_PREFIX) or (token_id is None and source.startswith(TOKEN_PREFIX)):
        raise EventSourceReserved(field=field)


def evolve(publication: Publication | None, envelope: Envelope, event: Any) -> Publication:
    """Return the record of an event on the bus after one of its journal events.

    Errors: AssertionError for a first event that is not ``EventPublished``: the journal is damaged.
    """
    if isinstance(event, EventPublished):
        return Publication(
            event_id=event.event_id,
            source=event.source,
            status="open" if event.matched else "done",
            publisher=event.publisher,
            published_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
            updated_cursor=envelope.cursor,
            hops=event.hops,
        )
    assert publication is not None, "the first journal event of an event is its publication"
    assert isinstance(event, EventDelivered)
    return replace(
        publication,
        status="done" if event.done else "open",
        updated_cursor=envelope.cursor,
        position=[] if event.done else event.position,
        delivered=publication.delivered + event.delivered,
        held=publication.held + event.held,
        refused=publication.refused + event.refused,
        stopped=publication.stopped + event.stopped,
        note=event.note,
    )


def evolve_wait(
    wait: EventWait | None, envelope: Envelope, event: EventAwaited | EventWaitEnded
) -> EventWait:
    """Return the wait of a call after one of its events.

    Errors: AssertionError for a first event that is not ``EventAwaited``: the journal is damaged.
    """
    if isinstance(event, EventAwaited):
        assert envelope.session_id is not None
        assert envelope.run_id is not None
        return EventWait(
            wait_id=event.wait_id,
            session_id=envelope.session_id,
            run_id=envelope.run_id,
            call_id=event.call_id,
            source=event.source,
            after=event.after,
            expires_at_ms=event.expires_at_ms,
            created_cursor=envelope.cursor,
            created_at_ms=envelope.at_ms,
        )
    assert wait is not None, "the first event of a wait is its begin"
    return replace(wait, is_pending=False)
