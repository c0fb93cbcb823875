"""Refusals about runs."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class RunNotFound(NotFound, reason="run_not_found"):
    """No run has that id; run.list shows all runs."""


class RunAlreadyEnded(Conflict, reason="run_already_ended"):
    """The run has ended; start another or read its journal."""


class NothingToSteer(Conflict, reason="nothing_to_steer"):
    """No run is in flight; send the message instead."""


class DebugNotFound(NotFound, reason="debug_not_found"):
    """No debug capture of that run exists; request one with the input (debug)."""


class ArtifactNotFound(NotFound, reason="artifact_not_found"):
    """The run has no debug artifact with that id, or it was deleted; run.debug lists them."""
