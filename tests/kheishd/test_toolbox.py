"""The sub-hooks of a daemon."""

from pathlib import Path
from typing import Any, cast

from kheishd.config.sections.config import Config
from kheishd.config.sections.tools import ToolsSection
from kheishd.home import Home
from kheishd.hooks.os.shell.health import SandboxHealth
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.toolbox import Toolbox
from kheishd.workers.runs.calls import REPORT_SECONDS
from tests.support.schemas import assert_portable


def make_toolbox(directory: Path) -> Toolbox:
    """Return the tools of a daemon that does not serve."""
    home = Home(directory)
    toolbox = Toolbox(home, ShellFiles(home.shells), SandboxHealth(home.path))
    toolbox.services = cast("Any", None)
    return toolbox


def test_every_tool_is_there_once(tmp_path: Path) -> None:
    """Every tool of the contract exists, with a description and a closed schema."""
    hooks = make_toolbox(tmp_path).hooks(Config())
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
    planning = ("todo_write", "enter_plan_mode", "exit_plan_mode", "emit_output")
    mail = ("message_agent", "answer_agent", "request_parent_clarification")
    others = ("bash", "web_fetch", "ask_user_question", "read_result", *planning)
    agents = ("spawn_agent", "delegate", "wait_agent", "get_agent", "list_agents", "close_agent")
    for name in (*files, *others, *mail, *agents, *(f"task_{verb}" for verb in tasks)):
        tool = hooks.find_tool(name)
        assert tool is not None
        assert tool.description
        assert tool.schema["type"] == "object"
        assert tool.schema["additionalProperties"] is False
    assert hooks.find_tool("no_such_tool") is None


def test_commands_keep_the_time_that_tools_have(tmp_path: Path) -> None:
    """A command has a longer tool timeout than its own, so that it can report its output."""
    toolbox = make_toolbox(tmp_path)
    for longest_s in (5.0, 180.0, 3600.0):
        tool = toolbox.hooks(Config(tools=ToolsSection(max_timeout_s=longest_s))).find_tool("bash")
        assert tool is not None
        assert longest_s < tool.timeout_s <= longest_s + REPORT_SECONDS


def test_every_schema_is_accepted_by_every_provider(tmp_path: Path) -> None:
    """The schema that models see is in the portable subset, and has every argument."""
    for tool in make_toolbox(tmp_path).hooks(Config()).tools():
        assert_portable(tool.model_schema)
        assert list(tool.model_schema["properties"]) == list(tool.schema["properties"])
        assert tool.model_schema.get("required", []) == tool.schema["required"]
