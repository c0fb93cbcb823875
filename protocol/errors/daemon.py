"""Refusals about the daemon as a whole."""

from __future__ import annotations

from protocol.errors.refusal import Unavailable, Unprocessable


class ConfigInvalid(Unprocessable, reason="config_invalid"):
    """The configuration is invalid; nothing was changed."""


class PathRefused(Unprocessable, reason="path_refused"):
    """That path cannot be used; give an absolute path in an existing directory outside the store."""


class DaemonDraining(Unavailable, reason="daemon_draining"):
    """The daemon is shutting down and accepts no new work; try again when it is back."""


class DaemonNotStarted(Unavailable, reason="not_started"):
    """The daemon cannot start; its log and the service manager's status say why."""

    retryable = False
