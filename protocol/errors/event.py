"""Refusals about events and triggers."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, LimitReached, NotFound


class EventSourceReserved(Forbidden, reason="event_source_reserved"):
    """Sources that begin with 'agent:' are those of agents, with 'token:' those of tokens; choose another."""


class EventBusForbidden(Forbidden, reason="event_bus_forbidden"):
    """A token that is limited to agents or senders neither reads events nor changes triggers.

    One whose inputs are data changes no trigger of an operator.
    """


class EventBusFull(LimitReached, reason="event_bus_full"):
    """Too many events are not delivered to all their triggers yet; publish again later."""


class EventNotFound(NotFound, reason="event_not_found"):
    """There is no event of that id; event.list shows the newest events."""


class TriggerNotFound(NotFound, reason="trigger_not_found"):
    """There is no trigger of that id; trigger.list shows all triggers."""


class TriggerReadOnly(Conflict, reason="trigger_read_only"):
    """A file defines the trigger; change the file and reload."""


class TriggerLimit(LimitReached, reason="trigger_limit"):
    """There is the maximum number of triggers; delete some."""
