"""The choice of an event's hooks."""

from pathlib import Path

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


def test_a_directory_is_looked_at_once_in_each_generation(tmp_path: Path) -> None:
    """A file that appears later does not count, not even for a directory below that is new."""
    lifecycle = Lifecycle()
    below = tmp_path / "a"
    assert not lifecycle.has_file(str(below), 1, above=True)
    (tmp_path / ".kheish").mkdir()
    (tmp_path / ".kheish/hooks.toml").touch()
    assert not lifecycle.has_file(str(tmp_path), 1)
    assert not lifecycle.has_file(str(tmp_path / "b"), 1, above=True)
    assert lifecycle.has_file(str(tmp_path / "b"), 2, above=True)
    assert lifecycle.has_file(str(tmp_path), 2)
    assert not lifecycle.has_file(str(below), 2)


def test_no_directory_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, a file is seen in a directory and above it, but not as one that was there before."""
    monkeypatch.setattr("kheishd.kernel.lifecycle.MAX_KEPT_WORKSPACES", 1)
    lifecycle = Lifecycle()
    assert not lifecycle.has_file(str(tmp_path / "a"), 1)
    (tmp_path / ".kheish").mkdir()
    (tmp_path / ".kheish/hooks.toml").touch()
    assert not lifecycle.has_file(str(tmp_path / "a"), 1)
    assert lifecycle.has_file(str(tmp_path / "b/c"), 1, above=True)
    assert lifecycle.remembers(str(tmp_path / "a"))
    assert not lifecycle.remembers(str(tmp_path))
