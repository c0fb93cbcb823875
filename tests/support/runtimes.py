"""Runtimes for tests, on the offline route."""

from typing import Any

import msgspec
from msgspec.structs import replace

from kheishd.config.sections.config import Config
from kheishd.core.definition import built_in
from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.providers.caller import ProviderCaller

WORKSPACES = Workspaces("/home/kheish/workspace", "/home/kheish")
"""The workspaces of an empty configuration."""

SECTIONS = frozenset(Config.__struct_fields__) - {"routes"}


def make_runtime(generation: int = 1, **changes: Any) -> Runtime:
    """Return a runtime with the built-in agent and route.

    ``changes`` are fields of the runtime or of its configuration.
    """
    runtime = Runtime(
        generation=generation,
        config=Config(),
        routes={"offline": RouteSpec("offline", "offline", "offline", built_in=True)},
        definitions={"default": built_in()},
        models=ProviderCaller(),
        load_hooks=lambda: CompositeHook(()),
        workspaces=WORKSPACES,
    )
    return change_runtime(runtime, **changes)


def change_runtime(runtime: Runtime, **changes: Any) -> Runtime:
    """Return a runtime with other fields; ``changes`` as for ``make_runtime``."""
    sections = {name: changes.pop(name) for name in SECTIONS & changes.keys()}
    config = changes.pop("config", runtime.config)
    if "hooks" in changes:
        hooks = changes.pop("hooks")
        changes["load_hooks"] = lambda: hooks
    return replace(runtime, config=msgspec.structs.replace(config, **sections), **changes)
