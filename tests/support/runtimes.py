"""Runtimes for tests, on the offline route."""

from typing import Any

from kheishd.core.definition import built_in
from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import RouteSpec, RunLimits, Runtime
from kheishd.providers.caller import Models

WORKSPACES = Workspaces("/home/kheish/workspace", "/home/kheish")
"""What nothing is configured of."""


def make_runtime(generation: int = 1, **changes: Any) -> Runtime:
    """A runtime with the built-in agent and route; ``changes`` are its other fields."""
    fields: dict[str, Any] = {
        "routes": {"offline": RouteSpec("offline", "offline", "offline", built_in=True)},
        "definitions": {"default": built_in()},
        "default_agent": "default",
        "default_route": "offline",
        "limits": RunLimits(),
        "models": Models(),
        "hooks": CompositeHook(()),
        "workspaces": WORKSPACES,
    }
    return Runtime(generation=generation, **(fields | changes))
