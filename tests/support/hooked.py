"""Lifecycle hooks for tests: commands of the shell, and a desk whose calls they judge."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.lifecycle.part import LifecycleHooks
from kheishd.kernel.lifecycle import HookSpec
from kheishd.kernel.runtime import ModelRequest
from kheishd.store.tables import HOOK_DEAD_LETTERS
from protocol.objects.hook import HookDeadLetter, HookEvent
from protocol.transcript import text_of
from tests.support.desk import Desk, open_desk, working
from tests.support.workshop import Workshop

SAVES_INPUT = "cat > input.json"


def shell_hook(name: str, event: HookEvent, line: str, directory: Path | str = "/", **facts: Any) -> HookSpec:
    """Return a hook that runs a line of the shell."""
    path = f"{directory}/{name}.toml"
    return HookSpec(name, event, path, str(directory), ("/bin/sh", "-c", line), **facts)


def answer_hook(name: str, event: HookEvent, answer: str, **facts: Any) -> HookSpec:
    """Return a hook that answers with this JSON."""
    return shell_hook(name, event, f"cat > /dev/null; printf '%s' '{answer}'", **facts)


@asynccontextmanager
async def hooked_desk(
    directory: Path, models: Any, hooks: Sequence[HookSpec], workshop: Workshop | None = None, **runtime: Any
) -> AsyncIterator[Desk]:
    """Open a desk with a worker, the tools of a workshop, and lifecycle hooks of the operator."""
    holder: list[Desk] = []
    composite = CompositeHook((workshop or Workshop(), LifecycleHooks(lambda: holder[0].services)))
    opened = open_desk(directory, models, hooks=composite, lifecycle=tuple(hooks), threaded=True, **runtime)
    async with opened as desk:
        holder.append(desk)
        async with working(desk):
            yield desk


def dead_letters(desk: Desk) -> list[HookDeadLetter]:
    """Return the failures of hooks, oldest first."""
    with desk.state.read() as store:
        letters = [letter for _, letter in store.scan(HOOK_DEAD_LETTERS)]
    return sorted(letters, key=lambda letter: letter.created_cursor)


def prompt_texts(request: ModelRequest) -> list[str]:
    """Return the texts of a model call's messages."""
    return [text_of(message.items) for message in request.messages]
