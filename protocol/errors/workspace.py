"""Refusals about trusted roots."""

from protocol.errors.refusal import Conflict, LimitReached, NotFound


class RootNotFound(NotFound, reason="root_not_found"):
    """No trusted root has that path; workspace.list names them."""


class RootConfigured(Conflict, reason="root_configured"):
    """The configuration trusts this root; remove it from [workspace] trusted and reload."""


class RootLimit(LimitReached, reason="root_limit"):
    """The maximum number of roots is trusted; untrust some first."""

    retryable = False
