"""The runner of hooks: outcomes, time, retries, redaction and the record of failures."""

import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.lifecycle import HookSpec, HookSubject
from kheishd.store.tables import HOOK_DEAD_LETTERS, HOOK_DEAD_LETTERS_BY_AGE
from protocol.limits import hook as limits
from protocol.limits.hook import MAX_HOOK_INPUT_BYTES
from protocol.objects.hook import HookOutcome
from tests.support.desk import Desk, open_desk
from tests.support.hooked import answer_hook, dead_letters, shell_hook

EVENT = HookSubject("pre_tool_use", "bash", "key", {"a": "b"}, "ses_1", "run_1")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Provide a store."""
    async with open_desk(tmp_path, threaded=True) as desk:
        yield desk


async def test_outcomes(desk: Desk) -> None:
    """Empty output and JSON are outcomes, exit code 2 is a block."""
    runner = desk.services.lifecycle.runner
    trial = await runner.test(shell_hook("a", "stop", "exit 0"), EVENT)
    assert (trial.outcome, trial.problem, trial.exit_code) == (HookOutcome(), None, 0)
    trial = await runner.test(answer_hook("a", "stop", '{"reason": "x", "contract_version": 1}'), EVENT)
    assert trial.outcome == HookOutcome(reason="x")
    trial = await runner.test(shell_hook("a", "stop", "echo {}; echo no >&2; exit 2"), EVENT)
    assert trial.outcome == HookOutcome(decision="block", reason="no")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("echo no", "not a valid outcome"),
        ('echo \'{"decison": "block"}\'', "unknown field `decison`"),
        ('echo \'{"contract_version": 2, "new": 1}\'', "contract version 2"),
        ("printf '\\377'", "not a valid outcome"),
        ("echo '[]'", "not a valid outcome"),
        ("exit 1", "ended with exit code 1"),
        ("kill -9 $$", "exit code 137, as by signal 9"),
        ('echo \'{"updated_input": {"a": [1e999]}}\'', "Number out of range"),
        ('echo \'{"updated_input": {"a": NaN}}\'', "not a valid outcome"),
        ('echo \'{"updated_input": {"a": -Infinity}}\'', "not a valid outcome"),
        ('echo \'{"updated_input": {"a": 36893488147419103232}}\'', "not a valid outcome"),
        ("/no/such", "exit code 127"),
        ("yes", "wrote more than"),
        ("sleep 100", "took longer than 0.3 s"),
    ],
)
async def test_failures(desk: Desk, line: str, problem: str) -> None:
    """Each failure has its reason, and blocks if the hook fails closed."""
    runner = desk.services.lifecycle.runner
    hook = shell_hook("guard", "pre_tool_use", line, policy="closed", timeout_s=0.3 if "100" in line else 5.0)
    verdict = await runner.decide([hook, shell_hook("b", "pre_tool_use", "exit 2")], EVENT)
    assert verdict.block == (
        "the hook 'guard' failed, and without its consent this must not be done; "
        "hook.dead_letters has the reason"
    )
    (letter,) = dead_letters(desk)
    assert problem in letter.problem
    assert (letter.invocation_key, letter.on_run) == ("key.guard", "run_1")
    assert json.loads(letter.payload)["payload"] == {"a": "b"}


async def test_retries_stay_within_the_time(desk: Desk, tmp_path: Path) -> None:
    """A hook that succeeds at its second attempt has not failed; a hanging one has only its time."""
    line = f"test -e {tmp_path}/once && exit 0; touch {tmp_path}/once; exit 1"
    runner = desk.services.lifecycle.runner
    trial = await runner.test(shell_hook("a", "stop", line, max_retries=2), EVENT)
    assert (trial.attempts, trial.problem) == (2, None)
    began = trio.current_time()
    trial = await runner.test(shell_hook("a", "stop", "sleep 100", max_retries=3, timeout_s=0.2), EVENT)
    assert trio.current_time() - began < 5
    assert (trial.attempts, trial.problem) == (1, "it took longer than 0.2 s")


async def test_observers_run_side_by_side(desk: Desk, tmp_path: Path) -> None:
    """Each of two hooks waits for the other one."""
    os.mkfifo(f"{tmp_path}/pipe")
    hooks = [
        shell_hook("a", "session_end", f"echo x > {tmp_path}/pipe"),
        shell_hook("b", "session_end", f"read line < {tmp_path}/pipe"),
        shell_hook("c", "session_end", "exit 2"),
        shell_hook("d", "session_end", "exit 1"),
    ]
    await desk.services.lifecycle.runner.notify(hooks, EVENT)
    assert [letter.hook for letter in dead_letters(desk)] == ["d"]


async def test_secrets_are_redacted(desk: Desk) -> None:
    """Neither the input nor the record of a failure has a secret."""
    desk.live.scrub(Scrubber(["sk-secret-12345"]))
    event = HookSubject("pre_tool_use", "bash", "key", {"command": 'curl -H "sk-secret-12345"'})
    trial = await desk.services.lifecycle.runner.test(shell_hook("a", "stop", "cat >&2; exit 1"), event)
    assert "sk-secret" not in str(trial)
    assert 'curl -H "' in trial.payload["payload"]["command"]


async def test_a_guard_sees_the_whole_input(desk: Desk) -> None:
    """No part of a call is hidden by its length; an input that is too long is a failure."""
    runner = desk.services.lifecycle.runner
    line = "grep -q rm && exit 2; exit 0"
    event = HookSubject("pre_tool_use", "bash", "key", {"text": "x" * 500_000 + "rm", "odd": "\ud800"})
    trial = await runner.test(shell_hook("a", "stop", line), event)
    assert trial.outcome is not None
    assert trial.outcome.decision == "block"
    event = HookSubject("pre_tool_use", "bash", "key", {"text": "x" * MAX_HOOK_INPUT_BYTES})
    verdict = await runner.decide([shell_hook("a", "pre_tool_use", line, policy="closed")], event)
    assert verdict.block is not None
    assert f"the limit is {MAX_HOOK_INPUT_BYTES}" in dead_letters(desk)[0].problem


async def test_a_fault_of_the_daemon_is_a_failure(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard fails closed then, too."""

    async def fail(*arguments: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("kheishd.hooks.lifecycle.runner.run_command", fail)
    guard = shell_hook("a", "pre_tool_use", "true", policy="closed")
    verdict = await desk.services.lifecycle.runner.decide([guard], EVENT)
    assert verdict.block is not None
    assert "something failed inside the daemon" in dead_letters(desk)[0].problem


async def test_the_oldest_failures_are_dropped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store keeps a limited number of them."""
    monkeypatch.setattr("kheishd.hooks.lifecycle.runner.MAX_HOOK_DEAD_LETTERS", 2)
    for name in ("a", "b", "c"):
        await desk.services.lifecycle.runner.notify([shell_hook(name, "stop", "exit 1")], EVENT)
    assert [letter.hook for letter in dead_letters(desk)] == ["b", "c"]
    assert desk.count(HOOK_DEAD_LETTERS) == desk.count(HOOK_DEAD_LETTERS_BY_AGE) == 2
    assert limits.MAX_HOOK_DEAD_LETTERS == 1_000


async def test_a_workspace_is_read_once_in_each_generation(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid file is logged once, and its problem is returned if it may have had a guard."""
    workspace = tmp_path.resolve() / "w"  # noqa: ASYNC240
    (workspace / ".kheish").mkdir(parents=True)
    runner = desk.services.lifecycle.runner
    assert runner.workspace_hooks(str(workspace), 1) == ((), None)
    file = workspace / ".kheish/hooks.toml"
    file.write_text('[[hook]]\nname = "a"\nevent = "stop"\ncommand = "x"\n')
    assert runner.workspace_hooks(str(workspace), 1) == ((), None)
    hooks, problem = runner.workspace_hooks(str(workspace), 2)
    assert ([hook.name for hook in hooks], problem) == (["a"], None)
    file.write_text("[[hook]]  # closed\n")
    assert runner.workspace_hooks(str(workspace), 2)[0] is hooks
    with caplog.at_level(logging.WARNING):
        hooks, problem = runner.workspace_hooks(str(workspace), 3)
        runner.workspace_hooks(str(workspace), 3)
    assert (hooks, "hooks.toml:1" in (problem or "")) == ((), True)
    assert len(caplog.records) == 1


async def test_a_missing_credential_is_a_failure(desk: Desk) -> None:
    """Nothing is sent without it."""
    hook = HookSpec("a", "stop", "/x.toml", "/", url="https://e.org", auth_ref="env:KHEISH_NO_CREDENTIAL")
    trial = await desk.services.lifecycle.runner.test(hook, EVENT)
    assert "its credential is missing: 'env:KHEISH_NO_CREDENTIAL' is not set" in (trial.problem or "")


@pytest.mark.parametrize("depth", [200, 40_000])
async def test_an_answer_that_is_nested_too_deep(desk: Desk, tmp_path: Path, depth: int) -> None:
    """It is a failure of the hook, not of the daemon."""
    deep = "[" * depth + "]" * depth
    (tmp_path / "answer").write_text(f'{{"updated_input": {{"a": {deep}}}}}')
    trial = await desk.services.lifecycle.runner.test(
        shell_hook("a", "stop", f"cat {tmp_path}/answer"), EVENT
    )
    assert "not a valid outcome" in (trial.problem or "")
