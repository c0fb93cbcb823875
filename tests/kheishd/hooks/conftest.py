"""Fixtures: a workspace, and the shell tool in it, with a sandbox and without."""

from pathlib import Path

import pytest

from kheishd.config.sections.workspace import SandboxMode
from kheishd.hooks.os.shell.tools import Bash
from tests.support.commands import Shell, context_at


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return an empty workspace."""
    directory = tmp_path / "workspace"
    directory.mkdir()
    return directory


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the daemon's home, with private files."""
    (tmp_path / "home" / "run").mkdir(parents=True)
    (tmp_path / "home" / "state").mkdir()
    (tmp_path / "home" / "config.toml").write_text("secret = 'of the daemon'\n")
    return tmp_path / "home"


@pytest.fixture(params=["off", "required"])
def mode(request: pytest.FixtureRequest) -> SandboxMode:
    """Return the confinement: none, and a sandbox."""
    if request.param == "required":
        request.getfixturevalue("bubblewrap")
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def shell(home: Path, workspace: Path, mode: SandboxMode) -> Shell:
    """Return the shell tool."""
    return Shell(Bash(home), context_at(workspace, mode))


@pytest.fixture
def bare(home: Path, workspace: Path) -> Shell:
    """Return the shell tool without a sandbox."""
    return Shell(Bash(home), context_at(workspace, "off"))


@pytest.fixture
def boxed(home: Path, workspace: Path, bubblewrap: None) -> Shell:
    """Return the shell tool in a sandbox."""
    return Shell(Bash(home), context_at(workspace, "required"))
