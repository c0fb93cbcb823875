"""Skills in runs: the sections of the prompt, and the tools."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.core.definition import parse
from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.skills import ACTIVE, AVAILABLE, ActiveSkills, SkillTools
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, tool
from kheishd.objects.agents.persona import bind_persona, create_persona
from kheishd.objects.agents.skill import activate, deactivate, visible_skills
from kheishd.objects.talk.bounds import bounds_of
from kheishd.objects.talk.compaction import HANDLERS as COMPACT
from kheishd.objects.talk.session import create, update
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import AGENTS, SESSIONS
from protocol.errors.skill import SkillNotActive
from protocol.events.call import ToolReturned
from protocol.events.session import SessionUpdated
from protocol.objects.persona import PersonaBind, PersonaCreate
from protocol.objects.session import CapabilityScope, SessionCompact, SessionCreate, SessionUpdate
from protocol.objects.skill import SkillActivate, SkillDeactivate
from protocol.transcript import ToolCall, text_of
from tests.support.desk import Desk, gives, open_desk, says, working
from tests.support.runtimes import change_runtime
from tests.support.skills import make_skills, write_skill


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the home's directory of skills, with two of them."""
    root = tmp_path / "home" / "skills"
    write_skill(root, "review", "---\ndescription: Review code.\n---\nReview $ARGUMENTS carefully.\n")
    write_skill(root, "style")
    return root


@pytest.fixture
async def desk(tmp_path: Path, root: Path, autojump_clock: MockClock) -> AsyncIterator[Desk]:
    """Provide a desk with a worker whose agent has skills."""
    skills = make_skills(root.parent)
    desks: list[Desk] = []
    hooks = CompositeHook((SkillTools(lambda: skills, lambda: desks[0].services), ActiveSkills()))
    async with open_desk(tmp_path, hooks=hooks, load_skills=lambda: skills) as desk, working(desk):
        desks.append(desk)
        yield desk


async def call(desk: Desk, tool: str, **arguments: Any) -> ToolReturned:
    """Let the model call a tool once; return the result."""
    desk.models.answers_to["go on"] = lambda request: gives(ToolCall("call_1", tool, arguments))
    desk.models.answers[:] = [lambda request: says("done")]
    sent = await desk.ask("go on")
    return [event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned)][-1]


async def test_available_skills_are_listed(desk: Desk, root: Path) -> None:
    """The list is the same in every turn. A skill that is added is in the next one."""
    for _ in range(2):
        await desk.ask()
    first, second = (request.instructions for request in desk.models.requests)
    assert first == second
    assert f"{AVAILABLE}\n- review: Review code.\n- style: Does style." in first
    write_skill(root, "late")
    await desk.ask()
    assert "- late: Does late." in desk.models.requests[-1].instructions


async def test_without_skills_nothing_changes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without skills, an agent has no tools for them, and its prompt does not mention them."""
    skills = make_skills(tmp_path)
    desks: list[Desk] = []
    hooks = CompositeHook((SkillTools(lambda: skills, lambda: desks[0].services), ActiveSkills()))
    async with open_desk(tmp_path, hooks=hooks) as desk, working(desk):
        desks.append(desk)
        await desk.ask()
        (request,) = desk.models.requests
    assert not request.tools
    assert "skill" not in request.instructions + request.situation


async def test_use_skill_returns_the_instructions(desk: Desk) -> None:
    """The result is the text and the state; the instructions stay, and the situation names the skill."""
    result = await call(desk, "use_skill", name="review", args="the diff", reason="asked")
    assert not result.is_error
    assert "Review the diff carefully." in result.text
    (skill,) = desk.session(desk.models.requests[0].session_id).active_skills
    assert (skill.name, skill.by_call) == ("review", True)
    before, after = desk.models.requests
    assert before.instructions == after.instructions
    assert "Active skills: review." in after.situation
    assert "Active skills" not in before.situation


async def test_compaction_does_not_lose_a_skill(desk: Desk) -> None:
    """Once the result of the call is compacted, the text is part of the instructions."""
    await call(desk, "use_skill", name="review")
    for _ in range(3):
        await desk.ask("x" * 2000)
    session_id = desk.models.requests[0].session_id
    assert ACTIVE not in desk.models.requests[-1].instructions
    await desk.do(COMPACT[1], SessionCompact(session_id=session_id, wait="settled"))
    await desk.ask()
    instructions = desk.models.requests[-1].instructions
    assert f"{ACTIVE}\n\n# Skill: review" in instructions


async def test_a_clients_activation_is_in_the_instructions(desk: Desk) -> None:
    """A skill that a person activates is in the prompt until it is deactivated."""
    session_id = (await desk.ask()).session_id
    await desk.do(activate, SkillActivate(session_id=session_id, name="style"))
    await desk.ask()
    assert "# Skill: style" in desk.models.requests[-1].instructions
    await desk.do(deactivate, SkillDeactivate(session_id=session_id, name="style"))
    await desk.ask()
    assert "# Skill: style" not in desk.models.requests[-1].instructions
    assert "Active skills" not in desk.models.requests[-1].situation


async def test_the_scope_filters_everything(desk: Desk) -> None:
    """A skill outside of the scope is not listed, not usable, and no longer active."""
    session_id = (await desk.ask()).session_id
    await desk.do(activate, SkillActivate(session_id=session_id, name="style"))
    await desk.do(update, SessionUpdate(session_id=session_id, scope=CapabilityScope(skills=["review"])))
    result = await call(desk, "use_skill", name="style")
    assert result.is_error
    assert "no skill 'style' here" in result.text
    request = desk.models.requests[-1]
    assert "style" not in request.instructions + request.situation
    listed = await call(desk, "list_skills")
    assert listed.text == "1 of 1 skills:\n- review: Review code."
    await desk.do(update, SessionUpdate(session_id=session_id, scope=CapabilityScope(skills=[])))
    await desk.ask()
    assert not desk.models.requests[-1].tools


async def test_list_skills(desk: Desk, root: Path) -> None:
    """A query selects; a skill that was added meanwhile is found."""
    assert (await call(desk, "list_skills", query="CODE")).text == "1 of 2 skills:\n- review: Review code."
    assert (await call(desk, "list_skills", query="nothing")).text == "No skill matches."
    write_skill(root, "late")
    assert "- late: Does late." in (await call(desk, "list_skills", query="late")).text


@pytest.mark.parametrize(
    ("text", "runtime", "problem"),
    [
        ("Text.", "context: fork", "an agent of its own"),
        ("---\nname: [\n---\n", None, r"bad/SKILL.md:3: "),
        ("$ARGUMENTS" * 2000, None, "longer than"),
    ],
)
async def test_a_skill_that_cannot_be_used(
    desk: Desk, root: Path, text: str, runtime: str | None, problem: str
) -> None:
    """The model reads why, and nothing is active."""
    path = write_skill(root, "bad", "Text.", runtime)
    sent = await desk.ask()
    path.write_text(text)
    result = await call(desk, "use_skill", name="bad", args="x" * 1000, context="inline")
    assert result.is_error
    assert problem in result.text
    assert desk.session(sent.session_id).active_skills == []


async def test_a_long_skill_is_not_cut(desk: Desk, root: Path) -> None:
    """A text beyond the limit of results is part of the instructions instead."""
    write_skill(root, "long", "d\n" + "x" * 100_000)
    result = await call(desk, "use_skill", name="long")
    assert result.text == "The skill 'long' is active now. Your instructions contain it."
    assert "x" * 100_000 in desk.models.requests[-1].instructions


# Tools that a skill allows.


class Look(SubHook):
    """Two tools without effects."""

    name = "look"

    @tool("look", description="Look.", kind="read")
    async def look(self, call: Invocation, arguments: Arguments) -> Outcome:
        """Look."""
        return Outcome("seen")

    @tool("touch", description="Touch.", kind="read")
    async def touch(self, call: Invocation, arguments: Arguments) -> Outcome:
        """Touch."""
        return Outcome("touched")


@pytest.mark.parametrize(
    ("text", "runtime"),
    [("---\ndescription: d\nallowed-tools: look\n---\n", None), ("Text.", "blocked_tools: [touch]")],
)
async def test_the_tools_of_active_skills_are_enforced(
    tmp_path: Path, root: Path, autojump_clock: MockClock, text: str, runtime: str | None
) -> None:
    """Other tools are neither offered nor run, except for those that work with skills."""
    write_skill(root, "narrow", text, runtime)
    skills = make_skills(root.parent)
    desks: list[Desk] = []
    hooks = CompositeHook((Look(), SkillTools(lambda: skills, lambda: desks[0].services), ActiveSkills()))
    async with open_desk(tmp_path, hooks=hooks, load_skills=lambda: skills) as desk, working(desk):
        desks.append(desk)
        # One message activates the skill and then calls a tool that it refuses.
        calls = [
            ToolCall("call_1", "use_skill", {"name": "narrow"}),
            ToolCall("call_2", "touch", {}),
            ToolCall("call_3", "look", {}),
        ]
        desk.models.answers_to["go"] = lambda request: gives(*calls)
        desk.models.answers[:] = [lambda request: says("done")]
        session_id = (await desk.ask("go")).session_id
        results = [event for _, event in desk.journal(session_id) if isinstance(event, ToolReturned)]
        texts = {event.call_id: event.text for event in results}
        assert texts["call_2"] == "The tool 'touch' is no longer allowed here."
        assert texts["call_3"] == "seen"
        assert [tool.name for tool in desk.models.requests[-1].tools] == ["look", "list_skills", "use_skill"]
        child = SessionCreate(session_id="child", parent_session_id=session_id)
        await desk.do(create, child)
        with desk.state.read() as store:
            bounds = bounds_of(store, desk.holder.current(), desk.session("child"))
        assert not bounds.allows_tool("touch")
        assert bounds.allows_tool("use_skill")
        await desk.do(deactivate, SkillDeactivate(session_id=session_id, name="narrow"))
        assert (await call(desk, "touch")).text == "touched"


# The default skills of a persona.


async def bind(desk: Desk, session_id: str, *names: str) -> None:
    """Bind a new persona with default skills to a session."""
    made = await desk.do(
        create_persona, PersonaCreate(display_name="Jeeves", soul="Be brief.", default_skills=list(names))
    )
    await desk.do(bind_persona, PersonaBind(session_id=session_id, persona_id=made.persona_id))


async def test_default_skills_of_a_persona(desk: Desk, root: Path) -> None:
    """They are frozen by the first run, narrow the tools, and come with the persona to child sessions."""
    write_skill(root, "narrow", "---\ndescription: d\nallowed-tools: [nothing]\n---\nOld text.\n")
    session_id = (await desk.ask()).session_id
    await bind(desk, session_id, "narrow", "style")
    await desk.ask()
    binding = desk.session(session_id).persona
    assert binding is not None
    assert [skill.name for skill in binding.skills or ()] == ["narrow", "style"]
    request = desk.models.requests[-1]
    assert "Old text." in request.instructions
    assert "Active skills: narrow, style." in request.situation
    (root / "narrow" / "SKILL.md").write_text("New text.")
    await desk.ask()
    assert desk.models.requests[-1].instructions == request.instructions
    # A child begins with a copy of the parent's binding.
    child = await desk.do(create, SessionCreate(session_id="child", parent_session_id=session_id))
    assert child.persona == binding
    with desk.state.read() as store:
        bounds = bounds_of(store, desk.holder.current(), desk.session("child"))
        found = [link.name for link in bounds.links if link.kind == "skill"]
    assert not bounds.allows_tool("look")
    assert found == ["narrow", "style", "narrow", "style"]


@pytest.mark.parametrize("problem", ["missing", "fork", "broken"])
async def test_a_default_skill_that_is_unusable_fails_the_run(desk: Desk, root: Path, problem: str) -> None:
    """Without it, its limits would be missing; a workspace's skill of that name does not stand in."""
    path = write_skill(root, "narrow", "---\ndescription: d\nallowed-tools: look\n---\n")
    session_id = (await desk.ask()).session_id
    await bind(desk, session_id, "narrow")
    text = path.read_text()
    if problem == "fork":
        write_skill(root, "narrow", text, "context: fork")
    elif problem == "broken":
        path.write_text("---\nallowed-tools: '('\n---\n")
    else:
        path.unlink()
    sent = await desk.ask()
    assert sent.status == "failed"
    error = desk.run(sent.run_id).error
    assert error is not None
    assert error.reason == "skill_unusable"
    assert "the skill 'narrow' of the persona" in error.message
    (path.parent / "agents" / "kheish.yaml").unlink(missing_ok=True)
    write_skill(root, "narrow", text)
    assert (await desk.ask()).status == "completed"
    binding = desk.session(session_id).persona
    assert binding is not None
    assert [skill.name for skill in binding.skills or ()] == ["narrow"]


async def test_an_agent_does_not_widen_a_skill(desk: Desk, root: Path) -> None:
    """A skill that the agent uses again, wider, keeps its limits, and so does its persona's default."""
    path = write_skill(root, "narrow", "---\ndescription: d\nallowed-tools: look\n---\n")
    persona = write_skill(root, "default", "---\ndescription: d\nallowed-tools: look glob\n---\n")
    session_id = (await desk.ask()).session_id
    await bind(desk, session_id, "default")
    await call(desk, "use_skill", name="narrow")
    for changed in (path, persona):
        changed.write_text("---\ndescription: d\n---\nDo as you like.\n")
        assert "Do as you like." in (await call(desk, "use_skill", name=changed.parent.name)).text
    with desk.state.read() as store:
        bounds = bounds_of(store, desk.holder.current(), desk.session(session_id))
    assert bounds.allows_tool("look")
    assert not bounds.allows_tool("glob")
    await desk.do(activate, SkillActivate(session_id=session_id, name="narrow"))
    await desk.do(deactivate, SkillDeactivate(session_id=session_id, name="default"))
    with desk.state.read() as store:
        bounds = bounds_of(store, desk.holder.current(), desk.session(session_id))
    assert (bounds.allows_tool("glob"), bounds.allows_tool("touch")) == (True, False)


async def test_the_sessions_own_skill_replaces_a_default(desk: Desk, root: Path) -> None:
    """Of two with one name the session's counts; once it is ended, the persona's is active again."""
    path = write_skill(root, "both", "---\ndescription: d\n---\nOf the persona.")
    session_id = (await desk.ask()).session_id
    await bind(desk, session_id, "both")
    await desk.ask()
    path.write_text("---\ndescription: d\n---\nOf the session.")
    await desk.do(activate, SkillActivate(session_id=session_id, name="both"))
    await desk.ask()
    instructions = desk.models.requests[-1].instructions
    assert ("Of the session." in instructions, "Of the persona." in instructions) == (True, False)
    await desk.do(deactivate, SkillDeactivate(session_id=session_id, name="both"))
    await desk.ask()
    assert "Of the persona." in desk.models.requests[-1].instructions
    with pytest.raises(SkillNotActive, match="unbind the persona"):
        await desk.do(deactivate, SkillDeactivate(session_id=session_id, name="both"))


async def test_a_guest_has_no_skills(desk: Desk) -> None:
    """A guest speaks for itself: the session's active skills are its own agent's."""
    runtime = desk.holder.current()
    critic = parse("critic", b"Criticize.", None)
    definitions = {**runtime.definitions, "critic": critic}
    desk.holder.replace(change_runtime(runtime, generation=2, definitions=definitions))
    session_id = (await desk.ask()).session_id
    await desk.do(activate, SkillActivate(session_id=session_id, name="style"))
    await desk.ask("And you?", guest="critic")
    request = desk.models.requests[-1]
    assert (request.instructions, "Active skills" in request.situation) == ("Criticize.", False)


# Forks: a skill that a new agent carries out.


async def test_a_fork_returns_the_output_of_a_new_agent(desk: Desk, root: Path) -> None:
    """The agent reads the skill as its task and has only its tools; the agent's output is the result."""
    text = "---\ndescription: Survey.\nallowed-tools: look Read\n---\nSurvey $ARGUMENTS.\n"
    write_skill(root, "survey", text, "context: fork\nmodel: big\nagent_profile: plan\n")
    result = await call(desk, "use_skill", name="survey", args="the attic", reason="asked")
    assert not result.is_error, result.text
    fork = msgspec.json.decode(result.text)
    assert (fork["action"], fork["mode"], fork["name"]) == ("fork", "fork", "survey")
    spawned = fork["spawn"]
    assert (spawned["outcome"], spawned["final_output"]) == ("completed", "done")
    assert spawned["path"].endswith("/skill_survey")
    child = desk.session(spawned["session_id"])
    assert (child.model, child.profile) == ("big", "plan")
    (active,) = child.active_skills
    assert active.name == "survey"
    (request,) = [request for request in desk.models.requests if request.session_id == child.session_id]
    assert "Survey the attic." in text_of(request.messages[0].items)
    assert "# Skill: survey" not in request.instructions
    with desk.state.read() as store:
        bounds = bounds_of(store, desk.holder.current(), child)
        agent = store.need(AGENTS, child.session_id)
    assert agent.retention == "close_on_settle"
    assert [bounds.allows_tool(name) for name in ("read_file", "glob_search")] == [True, False]
    parent = desk.session(desk.models.requests[0].session_id)
    assert parent.active_skills == []


async def test_an_inline_skill_can_be_forked(desk: Desk, root: Path) -> None:
    """Without waiting, the result names the agent, which works on."""
    result = await call(desk, "use_skill", name="style", context="fork", wait=False)
    spawned = msgspec.json.decode(result.text)["spawn"]
    assert spawned["launch_run_id"]
    await desk.until(lambda: desk.ended(spawned["launch_run_id"]))


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [("route: nowhere", "no route 'nowhere'"), ("model: m\nroute: nowhere", "nowhere")],
)
async def test_a_fork_that_cannot_be_spawned(desk: Desk, root: Path, runtime: str, problem: str) -> None:
    """The model reads why, and there is no agent."""
    write_skill(root, "bad", "Text.", runtime)
    result = await call(desk, "use_skill", name="bad")
    assert result.is_error
    assert problem in result.text
    assert desk.count(AGENTS) == 0


async def test_a_fork_needs_the_right_to_spawn(desk: Desk, root: Path) -> None:
    """An agent that may spawn none does not do so by a skill."""
    write_skill(root, "survey", "Text.", "context: fork\n")
    session_id = (await desk.ask()).session_id

    def block(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=tx.need(SESSIONS, session_id))
        writer.append(SessionUpdated(changes={"blocked_tools": ["spawn_agent"]}))
        writer.write()

    await desk.state.update(block)
    result = await call(desk, "use_skill", name="survey")
    assert result.is_error
    assert "you may spawn none" in result.text
    assert desk.count(AGENTS) == 0


async def test_a_long_skill_is_no_task(desk: Desk, root: Path) -> None:
    """A text beyond the limit of inputs is part of the agent's instructions instead."""
    write_skill(root, "long", "d\n\n" + '"' * 100_000, "context: fork")
    result = await call(desk, "use_skill", name="long")
    child = msgspec.json.decode(result.text)["spawn"]["session_id"]
    (request,) = [request for request in desk.models.requests if request.session_id == child]
    assert '"' * 100_000 in request.instructions


# Skills in a workspace.


async def test_skills_of_a_workspace_need_its_trust(
    tmp_path: Path, root: Path, autojump_clock: MockClock
) -> None:
    """They count from the workspace up to the trusted root, the nearest first; a link leads nowhere."""
    outer, inner = tmp_path / "work", tmp_path / "work" / "inner"
    write_skill(inner / ".claude" / "skills", "near")
    write_skill(inner / "skills", "same", "Of the inner one.")
    write_skill(outer / "skills", "same", "Of the outer one.")
    write_skill(tmp_path / "skills", "above")
    (outer / ".agents").mkdir()
    (outer / ".agents" / "skills").symlink_to(tmp_path / "skills")
    skills = make_skills(root.parent)
    desks: list[Desk] = []
    hooks = CompositeHook((SkillTools(lambda: skills, lambda: desks[0].services), ActiveSkills()))
    workspaces = Workspaces(str(inner), str(root.parent))
    async with (
        open_desk(tmp_path, hooks=hooks, load_skills=lambda: skills, workspaces=workspaces) as desk,
        working(desk),
    ):
        desks.append(desk)
        session_id = (await desk.ask()).session_id
        assert "near" not in desk.models.requests[-1].instructions
        trusted = replace(workspaces, trusted=(str(outer),))
        desk.holder.replace(replace(desk.holder.current(), generation=2, workspaces=trusted))
        await desk.ask()
        instructions = desk.models.requests[-1].instructions
        assert "- near: Does near." in instructions
        assert "- same: Of the inner one." in instructions
        assert "above" not in instructions
        with desk.state.read() as store:
            visible = visible_skills(store, desk.holder.current(), desk.session(session_id))
        assert [skill.name for skill in visible] == ["near", "review", "same", "style"]
        result = await call(desk, "use_skill", name="same")
        assert "Of the inner one." in result.text
        # After a restart, the tools are offered before the run's next prompt.
        run_id = desk.models.requests[-1].run_id
        session, run, pinned = desk.session(session_id), desk.run(run_id), desk.pinned(run_id)
        write_skill(inner / "skills", "late")
        fresh = SkillTools(lambda: make_skills(tmp_path / "none"), lambda: desk.services)
        context = RunContext(session, run, pinned, str(inner), "auto", desk.state)
        assert len(fresh.offer(context)) == 2
