"""Refusals about sessions and their input."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, LimitReached, NotFound, TooLarge, Unprocessable


class SessionNotFound(NotFound, reason="session_not_found"):
    """No session has that id; session.list shows all sessions."""


class SessionExists(Conflict, reason="session_exists"):
    """A session with that id and other properties exists; choose another id."""


class SessionAlreadyEnded(Conflict, reason="session_already_ended"):
    """The session has ended and accepts no more input; its journal stays readable."""


class SessionBusy(Conflict, reason="session_busy"):
    """The session has unfinished runs; wait for them or cancel them."""


class TooDeep(Unprocessable, reason="too_deep"):
    """Sessions can be nested at most 16 deep; create the new one under a session higher up."""


class WorkspaceForbidden(Forbidden, reason="workspace_forbidden"):
    """Agents may not work in that directory; omit it, or choose one inside workspace.root."""


class WorkspaceMissing(Unprocessable, reason="workspace_missing"):
    """That workspace does not exist or is no directory that the daemon may enter; name an existing one."""


class QueueFull(LimitReached, reason="queue_full"):
    """The session's queue is full; wait for runs to end or cancel some."""


class InputTooLarge(TooLarge, reason="input_too_large"):
    """The input exceeds its limit; put large content in a file in the workspace."""


class ExportKeyUnusable(Conflict, reason="export_key_unusable"):
    """The key with which this home signs exports cannot be read or made."""


class ImportInvalid(Unprocessable, reason="import_invalid"):
    """The export is damaged or is not a session export; nothing was imported."""


class ContractInvalid(Unprocessable, reason="contract_invalid"):
    """The contract's schema is not in the supported subset; the message names every problem."""


class InputContractViolated(Unprocessable, reason="input_contract_violated"):
    """The session accepts only JSON that matches its input contract."""
