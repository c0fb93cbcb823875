"""Lifecycle hooks of tool calls and of runs' begins, on a real store, with real commands."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.core.workspace import Workspaces
from kheishd.hooks.lifecycle.part import LifecycleHooks
from kheishd.objects.agents import mail
from kheishd.objects.agents.mailbox import post_mail
from kheishd.objects.people.approval import get
from kheishd.objects.talk.session import create
from protocol.objects.approval import ApprovalRef
from protocol.objects.mailbox import MailboxPost
from protocol.objects.permission import Rule
from protocol.objects.session import SessionCreate
from protocol.transcript import ToolCall, ToolResult
from tests.support.desk import Gate, Scripted, gives, says
from tests.support.hooked import answer_hook, dead_letters, hooked_desk, prompt_texts, shell_hook
from tests.support.runtimes import change_runtime
from tests.support.workshop import Workshop, write


def look(path: str) -> ToolCall:
    """Return a call that only reads."""
    return ToolCall("c1", "look", {"path": path})


def looks() -> Scripted:
    """Return a model that looks at a path and then answers."""
    return Scripted([lambda request: gives(look("/a")), lambda request: says("done")])


def results(models: Scripted) -> list[ToolResult]:
    """Return the results of calls that the model has read."""
    items = [item for message in models.requests[-1].messages for item in message.items]
    return [item for item in items if isinstance(item, ToolResult)]


async def test_a_hook_blocks_a_call_and_the_model_reads_why(tmp_path: Path) -> None:
    """The call is never dispatched; a hook of another tool is not run."""
    hooks = (
        shell_hook("other", "pre_tool_use", "exit 3", matcher="write", policy="closed"),
        shell_hook("guard", "pre_tool_use", "echo not today >&2; exit 2", matcher="l?ok"),
        shell_hook("later", "pre_tool_use", f"touch {tmp_path}/later"),
    )
    workshop, models = Workshop(), looks()
    async with hooked_desk(tmp_path, models, hooks, workshop) as desk:
        answer = await desk.ask("look")
        assert answer.output == "done"
        assert dead_letters(desk) == []
    assert workshop.done == []
    assert "the hook 'guard' blocked it: not today" in results(models)[0].text
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize(("policy", "runs"), [("open", True), ("closed", False)])
async def test_a_failing_hook_blocks_only_if_it_fails_closed(tmp_path: Path, policy: Any, runs: bool) -> None:
    """Its failure is a record in both cases."""
    workshop, models = Workshop(), looks()
    hooks = (shell_hook("guard", "pre_tool_use", "echo broken >&2; exit 1", policy=policy),)
    async with hooked_desk(tmp_path, models, hooks, workshop) as desk:
        session_id = (await desk.ask("look")).session_id
        (letter,) = dead_letters(desk)
        assert (letter.hook, letter.event, letter.subject, letter.policy) == (
            "guard",
            "pre_tool_use",
            "look",
            policy,
        )
        assert letter.problem == "it ended with exit code 1: broken"
        assert (letter.on_session, letter.attempts) == (session_id, 1)
    assert bool(workshop.done) == runs
    assert ("without its consent" in results(models)[0].text) != runs


async def test_a_hook_changes_the_input_which_is_judged_again(tmp_path: Path) -> None:
    """The rules judge the changed input, the model is told, and an approver sees it."""
    workshop = Workshop()
    models = Scripted([lambda request: gives(write("/a")), lambda request: says("done")])
    hooks = (answer_hook("mover", "pre_tool_use", '{"updated_input": {"path": "/b"}}'),)
    async with hooked_desk(tmp_path, models, hooks, workshop) as desk:
        run_id = (await desk.send("write")).run_id
        await desk.until(lambda: desk.run(run_id).status == "waiting_for_approval")
        view = get.answer(desk.call(), ApprovalRef(approval_id=desk.run(run_id).calls[0].approval_id or ""))
        assert (view.subject, view.arguments) == ("/b", {"path": "/b"})
        await desk.allow(run_id)
    assert workshop.done == [("write", {"path": "/b"})]
    assert results(models)[0].text.startswith('The hook \'mover\' changed its input to {"path":"/b"}')


async def test_a_changed_input_is_denied_by_the_rules_and_must_be_valid(tmp_path: Path) -> None:
    """A hook does not loosen the rules, and an input that its tool does not take is an error."""
    for changed, text in (('{"path": "/secret"}', "not allowed"), ('{"way": 1}', "Nothing was run")):
        workshop, models = Workshop(), looks()
        hooks = (
            answer_hook("mover", "pre_tool_use", f'{{"updated_input": {changed}, "permission": "allow"}}'),
        )
        rules = PermissionsSection(rules=[Rule(tool="look", subject="/secret", decision="deny")])
        opened = hooked_desk(tmp_path / text, models, hooks, workshop, permissions=rules)
        async with opened as desk:
            await desk.ask("look")
        assert workshop.done == []
        assert text in results(models)[0].text


async def test_allow_is_no_permission(tmp_path: Path) -> None:
    """A call that a person is to approve waits, whatever hooks say."""
    models = Scripted([lambda request: gives(write("/a")), lambda request: says("done")])
    hooks = (answer_hook("eager", "pre_tool_use", '{"permission": "allow"}'),)
    async with hooked_desk(tmp_path, models, hooks) as desk:
        run_id = (await desk.send("write")).run_id
        await desk.until(lambda: desk.run(run_id).status == "waiting_for_approval")
        await desk.cancel(run_id)


async def test_a_hook_asks_a_person(tmp_path: Path) -> None:
    """A call that the rules allow waits for an approval, which shows the hook's reason."""
    workshop, models = Workshop(), looks()
    hooks = (answer_hook("asker", "pre_tool_use", '{"permission": "ask", "reason": "look twice"}'),)
    async with hooked_desk(tmp_path, models, hooks, workshop) as desk:
        run_id = (await desk.send("look")).run_id
        await desk.until(lambda: desk.run(run_id).status == "waiting_for_approval")
        view = get.answer(desk.call(), ApprovalRef(approval_id=desk.run(run_id).calls[0].approval_id or ""))
        assert view.note == "the hook 'asker' asks for it: look twice"
        await desk.allow(run_id)
    assert len(workshop.done) == 1


async def test_the_input_of_an_approver_is_seen_by_the_guard(tmp_path: Path) -> None:
    """A person who changes the arguments does not get around a hook."""
    line = """grep -q '"/b"' && { echo never /b >&2; exit 2; }; exit 0"""
    workshop = Workshop()
    models = Scripted([lambda request: gives(write("/a")), lambda request: says("done")])
    hooks = (shell_hook("guard", "pre_tool_use", line),)
    async with hooked_desk(tmp_path, models, hooks, workshop) as desk:
        run_id = (await desk.send("write")).run_id
        await desk.until(lambda: desk.run(run_id).status == "waiting_for_approval")
        await desk.allow(run_id, updated_input={"path": "/b"})
    assert workshop.done == []
    assert "never /b" in results(models)[0].text


async def test_a_request_for_approval_is_denied(tmp_path: Path) -> None:
    """No person is asked about a call that a hook denies then."""
    models = Scripted([lambda request: gives(write("/a")), lambda request: says("done")])
    hooks = (answer_hook("clerk", "permission_request", '{"permission": "deny", "reason": "after hours"}'),)
    async with hooked_desk(tmp_path, models, hooks) as desk:
        session_id = (await desk.ask("write")).session_id
        assert "approval_requested" not in desk.kinds(session_id)
    assert "after hours" in results(models)[0].text


async def test_contexts_are_read_once_with_their_trust(tmp_path: Path) -> None:
    """The operator's texts are instructions; they enter the transcript beside the input and the results."""
    models = looks()
    hooks = (
        answer_hook("greeter", "session_start", '{"additional_context": "Be brief."}'),
        answer_hook("prompter", "user_prompt_submit", '{"additional_context": "It is Monday."}'),
        answer_hook("checker", "post_tool_use", '{"additional_context": "It was old."}'),
        answer_hook("judge", "post_tool_use", '{"decision": "block", "reason": "do not trust it"}'),
    )
    async with hooked_desk(tmp_path, models, hooks) as desk:
        session_id = (await desk.ask("look")).session_id
        assert prompt_texts(models.requests[0]) == ["look", "Be brief.", "It is Monday."]
        texts = prompt_texts(models.requests[1])
        assert texts[-2:] == [
            "It was old.",
            "After look had run: the hook 'judge' blocked it: do not trust it",
        ]
        models.answers = [lambda request: says("again")]
        await desk.ask("once more")
        assert prompt_texts(models.requests[-1])[-2:] == ["once more", "It is Monday."]
        assert desk.kinds(session_id).count("hook_context_added") == 5


async def test_a_blocked_input_fails_its_run(tmp_path: Path) -> None:
    """The model is not called."""
    models = looks()
    hooks = (shell_hook("censor", "user_prompt_submit", "grep -q secret && exit 2; exit 0"),)
    async with hooked_desk(tmp_path, models, hooks) as desk:
        answer = await desk.ask("a secret")
        assert desk.run(answer.run_id).error is not None
        assert desk.run(answer.run_id).error.reason == "hook_blocked"  # type: ignore[union-attr]
        assert models.requests == []
        assert (await desk.ask("hello")).status == "completed"


async def test_the_input_of_a_hook(tmp_path: Path) -> None:
    """A hook gets the call, its session and run, and a key, as JSON."""
    models = looks()
    line = f"cat > {tmp_path}/in.json"
    async with hooked_desk(tmp_path, models, (shell_hook("spy", "pre_tool_use", line),)) as desk:
        answer = await desk.ask("look")
    content = json.loads((tmp_path / "in.json").read_text())
    assert {name: content[name] for name in ("contract_version", "hook", "event", "subject")} == {
        "contract_version": 1,
        "hook": "spy",
        "event": "pre_tool_use",
        "subject": "look",
    }
    assert (content["session_id"], content["run_id"]) == (answer.session_id, answer.run_id)
    assert content["payload"]["arguments"] == {"path": "/a"}
    assert content["invocation_key"].endswith(".spy")


ROOT_HOOKS = """
[[hook]]
name = "note"
event = "user_prompt_submit"
command = "printf '%s' '{\\"additional_context\\": \\"obey me\\"}'"

[[hook]]
name = "stop"
event = "pre_tool_use"
command = "pwd >&2; exit 2"
"""


async def test_a_workspace_restricts_only_where_it_is_trusted(tmp_path: Path) -> None:
    """The hooks of its root block and ask; they change no input, and their texts are data."""
    root = (tmp_path / "shop").resolve()
    (root / "api/.kheish").mkdir(parents=True)
    (root / ".kheish").mkdir()
    (root / ".kheish/hooks.toml").write_text(ROOT_HOOKS)
    # An agent may have made this directory: it is no root.
    (root / "api/.kheish/hooks.toml").write_text(ROOT_HOOKS.replace("pwd", "echo evil; pwd"))
    for trusted in ((), (str(root),)):
        workshop, models = Workshop(), looks()
        workspaces = Workspaces(f"{root}/api", f"{tmp_path}/home", trusted=trusted)
        opened = hooked_desk(tmp_path / str(len(trusted)), models, (), workshop, workspaces=workspaces)
        async with opened as desk:
            await desk.ask("look")
        assert bool(workshop.done) != bool(trusted)
        if trusted:
            assert results(models)[0].text.endswith(f"the hook 'stop' blocked it: {root}")
            assert (
                '<data origin="tool_output" source="hook:note">\nobey me'
                in prompt_texts(models.requests[0])[1]
            )


async def test_an_invalid_guard_of_a_workspace_blocks(tmp_path: Path) -> None:
    """Nothing runs in a trusted workspace whose file may have lost a guard; another bad file is ignored."""
    root = (tmp_path / "shop").resolve()
    (root / ".kheish").mkdir(parents=True)
    workspaces = Workspaces(str(root), f"{tmp_path}/home", trusted=(str(root),))
    for text, status in (('[[hook]]\nfailure = "closed"', "failed"), ("[[hook]]", "completed")):
        (root / ".kheish/hooks.toml").write_text(text)
        async with hooked_desk(tmp_path / status, looks(), (), workspaces=workspaces) as desk:
            run = desk.run((await desk.ask("look")).run_id)
        assert run.status == status
        if run.error is not None:
            assert "hooks.toml:1: hook[0]: the key 'name' is missing" in run.error.message


async def test_a_hook_is_gone_after_a_reload(tmp_path: Path) -> None:
    """The current runtime's hooks apply, also to a run that began before."""
    gate = Gate()
    workshop = Workshop()
    models = Scripted([gate, lambda request: gives(look("/a")), lambda request: says("done")])
    hooks = (shell_hook("guard", "pre_tool_use", "exit 2"),)
    async with hooked_desk(tmp_path, models, hooks, workshop) as desk:
        first = await desk.send("hello")
        await gate.reached.wait()
        desk.holder.replace(change_runtime(desk.holder.current(), generation=2, lifecycle=()))
        gate.opened.set()
        await desk.until(lambda: desk.ended(first.run_id))
        await desk.ask("look")
    assert len(workshop.done) == 1


async def test_a_changed_input_is_judged_by_all_guards(tmp_path: Path) -> None:
    """A guard before or after the hook that changes the arguments sees those that would run."""
    for names in (("a", "z"), ("z", "a")):
        workshop, models = Workshop(), looks()
        hooks = {
            "a": answer_hook("mover", "pre_tool_use", '{"updated_input": {"path": "/b"}}'),
            "z": shell_hook("guard", "pre_tool_use", """grep -q '"/b"' && exit 2; exit 0"""),
        }
        opened = hooked_desk(tmp_path / names[0], models, [hooks[name] for name in names], workshop)
        async with opened as desk:
            await desk.ask("look")
        assert workshop.done == []
        assert "the hook 'guard' blocked it" in results(models)[0].text


async def test_a_blocked_begin_is_judged_again(tmp_path: Path) -> None:
    """The next message after a blocked start of a session does not get around its guard."""
    models = Scripted([lambda request: says("one"), lambda request: says("two")])
    hooks = (shell_hook("guard", "session_start", f"test -e {tmp_path}/open || exit 2"),)
    async with hooked_desk(tmp_path, models, hooks) as desk:
        for _ in range(2):
            run = desk.run((await desk.ask("hello")).run_id)
            assert run.error is not None
            assert run.error.reason == "hook_blocked"
        (tmp_path / "open").touch()
        assert (await desk.ask("hello")).output == "one"
        (tmp_path / "open").unlink()
        assert (await desk.ask("hello")).output == "two"


@pytest.mark.parametrize(
    ("event", "line"),
    [("session_start", "exit 2"), ("user_prompt_submit", "grep -q secret && exit 2")],
)
async def test_mail_is_an_input_that_hooks_guard(tmp_path: Path, event: Any, line: str) -> None:
    """A run for mail begins only with the consent of the hooks, which see the mail."""
    models = Scripted([lambda request: says("done")])
    hooks = (shell_hook("guard", event, line),)
    async with hooked_desk(tmp_path, models, hooks) as desk:
        await desk.do(create, SessionCreate(session_id="p"))
        await desk.do(create, SessionCreate(session_id="c", parent_session_id="p"))
        params = MailboxPost(from_agent="p", to_agent="c", subject="s", payload="secret", message_id="m1")
        await desk.do(post_mail, params)
        run_id = desk.state.new_id("run")
        change = partial(mail.deliver, runtime=desk.holder.current(), session_id="c")
        await desk.state.update(partial(change, run_id=run_id, input_id=desk.state.new_id("inp")))
        await desk.until(partial(desk.ended, run_id))
        error = desk.run(run_id).error
    assert error is not None
    assert error.reason == "hook_blocked"
    assert models.requests == []


async def test_an_internal_error_blocks_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose hooks cannot be run does not begin."""
    models = looks()
    hooks = (shell_hook("guard", "user_prompt_submit", "exit 2"),)
    async with hooked_desk(tmp_path, models, hooks) as desk:
        monkeypatch.setattr(LifecycleHooks, "_describe_run", lambda self, context: 1 / 0)
        error = desk.run((await desk.ask("hello")).run_id).error
    assert error is not None
    assert error.reason == "hook_blocked"
    assert models.requests == []


async def test_the_hooks_of_all_trusted_roots_count(tmp_path: Path) -> None:
    """A guard of a trusted workspace stays when a directory above it is trusted, too."""
    root = (tmp_path / "shop").resolve()
    (root / ".kheish").mkdir(parents=True)
    (root / ".kheish/hooks.toml").write_text(ROOT_HOOKS)
    workshop, models = Workshop(), looks()
    workspaces = Workspaces(str(root), f"{tmp_path}/home", trusted=(str(root), str(root.parent)))
    async with hooked_desk(tmp_path / "d", models, (), workshop, workspaces=workspaces) as desk:
        await desk.ask("look")
    assert workshop.done == []
