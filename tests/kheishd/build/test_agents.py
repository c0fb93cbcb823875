"""Agents' files: those that are read, and the problems of bad ones."""

import os
from pathlib import Path

import pytest

from kheishd.build.agents import MAX_AGENT_FILES, read_agents
from kheishd.build.runtime import make_built_in_route
from tests.support.runtimes import WORKSPACES


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
