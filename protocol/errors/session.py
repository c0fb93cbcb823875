"""Refusals about sessions and their input."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, NotFound, Refused, TooLarge, TooMany


class SessionNotFound(NotFound, reason="session_not_found"):
    """No session has that id; 'kheishctl session list' shows those there are."""


class SessionExists(Conflict, reason="session_exists"):
    """A session of that id exists with other properties; choose another id."""


class SessionAlreadyEnded(Conflict, reason="session_already_ended"):
    """The session was ended and takes no more input; its journal stays readable."""


class SessionBusy(Conflict, reason="session_busy"):
    """The session has runs that have not ended; wait for them or cancel them."""


class TooDeep(Refused, reason="too_deep"):
    """Sessions nest 16 deep at most; make the new one a child of one further up."""


class WorkspaceForbidden(Forbidden, reason="workspace_forbidden"):
    """Agents may not work in that directory; leave it out, or choose one within [workspace] root."""


class QueueFull(TooMany, reason="queue_full"):
    """The session has as many runs waiting as it may; wait for some to end or cancel them."""


class InputTooLarge(TooLarge, reason="input_too_large"):
    """The input is over its limit; send large content as assets."""


class ImportInvalid(Refused, reason="import_invalid"):
    """The export is damaged or not one of ours; nothing was imported."""


class ContractInvalid(Refused, reason="contract_invalid"):
    """The contract's schema is not one that contracts may have; the message names every problem."""


class InputContractViolated(Refused, reason="input_contract_violated"):
    """The session takes only JSON that fits its input contract; 'kheishctl session get' shows it."""
