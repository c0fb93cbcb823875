"""The choice of an event's hooks."""

import pytest

from kheishd.kernel.lifecycle import Lifecycle, find_hooks
from tests.support.hooked import shell_hook


def test_the_hooks_of_an_event_keep_their_order() -> None:
    """The event and the pattern of the subject decide."""
    hooks = [
        shell_hook("b", "pre_tool_use", "true", matcher="ba*"),
        shell_hook("a", "pre_tool_use", "true"),
        shell_hook("c", "stop", "true"),
        shell_hook("d", "pre_tool_use", "true", matcher="edit"),
    ]
    assert [hook.name for hook in find_hooks(hooks, "pre_tool_use", "bash")] == ["b", "a"]


def test_the_runner_is_loaded_when_it_is_needed() -> None:
    """Services without a daemon have none."""
    with pytest.raises(AssertionError, match="only a daemon"):
        _ = Lifecycle().runner
