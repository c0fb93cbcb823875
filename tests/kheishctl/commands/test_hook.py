"""``kheishctl hook``."""

import json
from pathlib import Path

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl

HOOKS = """
[[hook]]
name = "ctl-guard"
event = "notification"
matcher = "no-such-*"
command = "cat > /dev/null; echo '{\\"reason\\": \\"seen\\"}'"

[[hook]]
name = "ctl-broken"
event = "notification"
matcher = "no-such-*"
command = "echo broken >&2; exit 1"
"""


@pytest.fixture
def hooked(ctl: Ctl) -> Ctl:
    """Provide a daemon with two hooks that match nothing."""
    directory = ctl.home / "hooks"
    directory.mkdir(exist_ok=True)
    (directory / "ctl.toml").write_text(HOOKS)
    assert ctl("daemon", "reload").code == 0
    return ctl


def test_list_and_show(hooked: Ctl) -> None:
    """Hooks are listed, and shown with their file."""
    assert "ctl-guard" in hooked("hook", "list").out
    assert "ctl-guard" not in hooked("hook", "list", "--event", "stop").out
    assert hooked.json("hook", "show", "ctl-guard")["path"].endswith("hooks/ctl.toml")
    assert "hook list" in hooked("hook", "show", "gone").err


def test_test(hooked: Ctl) -> None:
    """A dry run shows the input and the outcome; the exit code tells a failure."""
    done = hooked("hook", "test", "ctl-guard", '{"a": 1}', "--subject", "x")
    assert done.code == exit_codes.OK
    assert '"reason": "seen"' in done.out
    assert '"a": 1' in done.out
    assert hooked.json("hook", "test", "ctl-guard")["outcome"] == {"reason": "seen"}
    done = hooked("hook", "test", "ctl-broken", "-", stdin=json.dumps({}))
    assert (done.code, "It failed: it ended with exit code 1: broken" in done.out) == (
        exit_codes.FAILED,
        True,
    )
    for payload in ("[]", "{"):
        assert hooked("hook", "test", "ctl-guard", payload).code == exit_codes.USAGE


def test_preview(hooked: Ctl, tmp_path: Path) -> None:
    """A preview shows the command, its directory, its input and whether it matches, and runs nothing."""
    done = hooked("hook", "test", "ctl-broken", "--preview", "--subject", "other")
    assert done.code == exit_codes.OK
    assert "does not run, because its matcher does not match" in done.out
    done = hooked("hook", "test", "ctl-broken", '{"a": 1}', "--preview")
    assert (
        f"the hook 'ctl-broken' runs: /bin/sh -c 'echo broken >&2; exit 1' in {hooked.home}/hooks" in done.out
    )
    assert '"a": 1' in done.out
    assert "outcome" not in hooked.json("hook", "test", "ctl-guard", "--preview")


def test_a_workspace(hooked: Ctl, tmp_path: Path) -> None:
    """The hooks of a workspace that is not trusted take no effect, and the list says so."""
    done = hooked("hook", "list", "--workspace", str(tmp_path))
    assert done.code == exit_codes.FAILED
    assert f"no trusted root contains {tmp_path.resolve()}" in done.err
    assert "workspace list" in done.err
    assert hooked("hook", "show", "gone", "--workspace", str(tmp_path)).code == exit_codes.FAILED


def test_dead_letters_and_resolve(hooked: Ctl) -> None:
    """There are no failures; the hint of an unknown one lists them."""
    assert hooked.json("hook", "dead-letters", "--state", "resolved")["dead_letters"] == []
    done = hooked("hook", "resolve", "hkf_1", "--note", "mended")
    assert (done.code, "hook dead-letters" in done.err) == (exit_codes.FAILED, True)
