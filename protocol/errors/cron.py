"""Refusals about cron entries."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, LimitReached, NotFound, Unprocessable


class CronNotFound(NotFound, reason="cron_not_found"):
    """No cron entry has that id; cron.list shows them."""


class CronExists(Conflict, reason="cron_exists"):
    """A cron entry with that id exists; choose another id, or update it."""


class CronChanged(Conflict, reason="cron_changed"):
    """The cron entry has changed since that revision; read it again."""


class CronNotActive(Conflict, reason="cron_not_active"):
    """The status of the cron entry does not permit this; the message names it."""


class CronFromFile(Conflict, reason="cron_from_file"):
    """The cron entry is in a file; change the file and reload."""


class CronForbidden(Forbidden, reason="cron_forbidden"):
    """The cron entry is an operator's; a token whose inputs are data changes and fires only others."""


class CronInvalid(Unprocessable, reason="cron_invalid"):
    """The cron entry is invalid; the message names the field and the remedy."""


class CronLimit(LimitReached, reason="cron_limit"):
    """The maximum number of cron entries exists; delete some first."""

    retryable = False
