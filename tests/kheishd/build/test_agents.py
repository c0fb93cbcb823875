"""Agents' files: those that are read, and the problems of bad ones."""

import os
from pathlib import Path

import pytest

from kheishd.build.agents import MAX_AGENT_FILES, add_stored_agents, read_agents
from kheishd.core.definition import make_definition, parse
from kheishd.kernel.route import make_built_in_route
from protocol.objects.definition import Definition, DefinitionSettings
from tests.support.runtimes import WORKSPACES, make_runtime


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """Return an empty directory of agents."""
    (tmp_path / "agents").mkdir()
    return tmp_path / "agents"


def test_agents_by_name(agents: Path) -> None:
    """Files of other names are ignored; a file may replace the built-in agent."""
    (agents / "b.md").write_text("B.")
    (agents / "default.md").write_text("Mine.")
    (agents / ".hidden.md").write_text("---\n")
    (agents / "b.md~").write_text("---\n")
    (agents / "README.txt").write_text("---\n")
    definitions, problems = read_agents(agents, {"offline": make_built_in_route()}, WORKSPACES)
    assert list(definitions) == ["b", "default"]
    assert (definitions["default"].instructions, definitions["default"].source) == ("Mine.", "file")
    assert problems == []


def test_unknown_route(agents: Path) -> None:
    """A route that is not configured is a problem of the line that names it."""
    (agents / "a.md").write_text("---\ndescription: d\nroute: gone\n---\n")
    routes = {"offline": make_built_in_route()}
    assert read_agents(agents, routes, WORKSPACES)[1] == [
        "a.md:3: route: no route 'gone'; configured routes: offline"
    ]


@pytest.mark.parametrize("path", ["../state", "..", "a/../..", "/", "'/srv/a\\nb'".replace("'", '"')])
def test_forbidden_workspace(agents: Path, path: str) -> None:
    """A workspace that no agent may have is a problem of the line that names it."""
    (agents / "a.md").write_text(f"---\ndescription: d\nworkspace: {path}\n---\n")
    (problem,) = read_agents(agents, {}, WORKSPACES)[1]
    assert problem.startswith("a.md:3: workspace: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(agents: Path) -> None:
    """A file that cannot be read is a problem."""
    (agents / "a.md").write_text("x")
    (agents / "a.md").chmod(0)
    assert read_agents(agents, {}, WORKSPACES)[1] == ["a.md:1: Permission denied"]


def test_directory_with_the_name_of_an_agent(agents: Path) -> None:
    """A directory is a problem and harms no other agent."""
    (agents / "a.md").mkdir()
    (agents / "b.md").write_text("B.")
    definitions, problems = read_agents(agents, {}, WORKSPACES)
    assert (list(definitions), problems) == (["b", "default"], ["a.md:1: Is a directory"])


def test_pipe_with_the_name_of_an_agent(agents: Path) -> None:
    """A pipe without a writer does not block, and devices are not read."""
    os.mkfifo(agents / "pipe.md")
    (agents / "zero.md").symlink_to("/dev/zero")
    definitions, problems = read_agents(agents, {}, WORKSPACES)
    assert (list(definitions), problems) == (
        ["default"],
        ["pipe.md:1: not a regular file", "zero.md:1: not a regular file"],
    )


def test_no_directory(tmp_path: Path) -> None:
    """The directory need not exist; a file in its place is a problem."""
    assert read_agents(tmp_path / "agents", {}, WORKSPACES)[1] == []
    (tmp_path / "agents").write_text("")
    assert read_agents(tmp_path / "agents", {}, WORKSPACES)[1] == ["agents:1: Not a directory"]


def test_too_many_files(agents: Path) -> None:
    """The first thousand files are read, and the rest is a problem."""
    for number in range(MAX_AGENT_FILES + 1):
        (agents / f"a{number:04d}.md").write_text("x")
    definitions, problems = read_agents(agents, {}, WORKSPACES)
    assert (len(definitions), "a1000" in definitions) == (MAX_AGENT_FILES + 1, False)
    assert problems == ["agents:1: 1001 files, of which 1000 are read"]


def stored(name: str, **settings: str) -> Definition:
    """Return a definition as the store has it."""
    return make_definition(name, DefinitionSettings(**settings), "Stored.", None)  # type: ignore[arg-type]


def test_stored_agents_are_added() -> None:
    """A stored agent replaces the built-in one; its relative workspace begins at the root."""
    runtime = add_stored_agents(make_runtime(), [stored("default"), stored("a", workspace="sub")])
    assert {name: agent.source for name, agent in runtime.definitions.items()} == {
        "a": "stored",
        "default": "stored",
    }
    assert runtime.definitions["a"].workspace == f"{WORKSPACES.root}/sub"
    assert runtime.warnings == ()


def test_a_file_comes_before_a_stored_agent() -> None:
    """The file's agent counts, and a warning names it."""
    file = parse("a", b"File.", "/home/agents/a.md")
    runtime = add_stored_agents(make_runtime(definitions={"default": file, "a": file}), [stored("a")])
    assert runtime.definitions["a"] is file
    (warning,) = runtime.warnings
    assert "/home/agents/a.md" in warning


def test_a_stored_agent_that_the_configuration_does_not_allow() -> None:
    """It is left out with a warning, which comes after the runtime's own."""
    runtime = add_stored_agents(make_runtime(warnings=("first",)), [stored("a", route="gone")])
    assert list(runtime.definitions) == ["default"]
    assert runtime.warnings[0] == "first"
    assert "skipped the stored agent 'a': route: no route 'gone'" in runtime.warnings[1]


def test_the_default_agent_does_not_exist() -> None:
    """A missing default agent is a warning, unless the store has it."""
    runtime = make_runtime(default_agent="gone")
    (warning,) = add_stored_agents(runtime, []).warnings
    assert "default agent 'gone'" in warning
    assert add_stored_agents(runtime, [stored("gone")]).warnings == ()
