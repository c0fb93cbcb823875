"""Refusals about runs."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class RunNotFound(NotFound, reason="run_not_found"):
    """No run has that id; 'kheishctl run list' shows those there are."""


class RunAlreadyEnded(Conflict, reason="run_already_ended"):
    """The run has ended; start another or read its journal."""


class NothingToSteer(Conflict, reason="nothing_to_steer"):
    """No run is in flight; send the message instead."""


class DebugNotFound(NotFound, reason="debug_not_found"):
    """Nothing is kept of that run's model calls; 'kheishctl send --debug redacted' captures those of one."""


class ArtifactNotFound(NotFound, reason="artifact_not_found"):
    """The run has no debug artifact of that id, or has it no more; 'kheishctl run debug RUN' lists them."""
