"""The parts that a daemon has."""

from pathlib import Path

from kheishd.config import Config
from kheishd.home import Home
from kheishd.hooks.shells.files import ShellFiles
from kheishd.toolbox import Toolbox


def test_every_tool_is_there_once(tmp_path: Path) -> None:
    """The names that the contract promises, each with a description and a schema of its own."""
    home = Home(tmp_path)
    hooks = Toolbox(home, ShellFiles(home.shells)).hooks(Config())
    files = (
        "read_file",
        "write_file",
        "edit_file",
        "apply_patch",
        "list_files",
        "glob_search",
        "grep_search",
    )
    tasks = ("create", "get", "list", "update", "stop", "delete", "output")
    others = ("bash", "web_fetch", "ask_user_question", "read_result")
    for name in (*files, *others, *(f"task_{verb}" for verb in tasks)):
        tool = hooks.tool(name)
        assert tool is not None
        assert tool.description
        assert tool.schema["type"] == "object"
        assert tool.schema["additionalProperties"] is False
    assert hooks.tool("no_such_tool") is None
