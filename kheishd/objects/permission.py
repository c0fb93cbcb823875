"""Permissions: the layers that a call is judged by."""

from typing import TYPE_CHECKING

from kheishd.core.permissions import Layers
from kheishd.objects.bounds import bounds_of

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Run
    from protocol.objects.session import Session


def layers_of(store: "Snapshot", runtime: "Runtime", session: "Session", run: "Run | None") -> Layers:
    """What holds in a session now."""
    return Layers(bounds_of(store, runtime, session).mode)
