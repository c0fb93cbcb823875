"""Read the agents' files, ``<home>/agents/<name>.md``, and add the stored definitions."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from kheishd.config.sections.config import BUILT_IN_AGENT
from kheishd.core import definition
from kheishd.core.definition import DefinitionError, InvalidSettings
from kheishd.core.workspace import Workspaces
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.objects.node.definition import complete_definition
from protocol.limits.session import MAX_AGENT_FILE_BYTES
from protocol.objects.definition import Definition

# More files than this are an accident, such as a checkout of another project.
MAX_AGENT_FILES = 1_000


def read_agents(
    directory: Path, routes: Mapping[str, RouteSpec], workspaces: Workspaces
) -> tuple[dict[str, Definition], list[str]]:
    """Return the built-in agent and the agents in a directory, by name, and the problems of bad files.

    Shape:  problems begin with ``<file>:<line>:``.
    """
    agents = {BUILT_IN_AGENT: definition.built_in()}
    problems: list[str] = []
    for path in _list_agent_files(directory, problems):
        try:
            agent = _read_agent(path, routes, workspaces)
        except DefinitionError as error:
            problems += [f"{path.name}:{line}: {message}" for line, message in error.problems]
        else:
            agents[agent.name] = agent
    return dict(sorted(agents.items())), problems


def _list_agent_files(directory: Path, problems: list[str]) -> list[Path]:
    """Return all ``*.md`` files, except hidden ones; other files are ignored, such as editors' backups."""
    try:
        files = sorted(
            path for path in directory.iterdir() if path.suffix == ".md" and not path.name.startswith(".")
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{directory.name}:1: {error.strerror}")
        return []
    if len(files) > MAX_AGENT_FILES:
        problems.append(f"{directory.name}:1: {len(files)} files, of which {MAX_AGENT_FILES} are read")
    return files[:MAX_AGENT_FILES]


def _read_agent(path: Path, routes: Mapping[str, RouteSpec], workspaces: Workspaces) -> Definition:
    """Read an agent's file, with its workspace resolved. Errors: DefinitionError."""
    try:
        # Opening a pipe would otherwise wait for a writer.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DefinitionError([(1, "not a regular file")])
            content = file.read(MAX_AGENT_FILE_BYTES + 1)
    except OSError as error:
        raise DefinitionError([(1, error.strerror or "cannot be read")]) from None
    agent = definition.parse(path.stem, content, str(path))
    try:
        return complete_definition(agent, routes, workspaces)
    except InvalidSettings as error:
        raise definition.locate_settings(content, error) from None


def add_stored_agents(runtime: Runtime, stored: Iterable[Definition]) -> Runtime:
    """Return a runtime with the stored definitions besides those of its files, which come first.

    A stored definition that the configuration does not allow is left out, with a warning.
    """
    definitions, warnings = dict(runtime.definitions), list(runtime.warnings)
    for agent in stored:
        existing = runtime.definitions.get(agent.name)
        if existing is not None and existing.source == "file":
            warnings.append(
                f"the stored agent '{agent.name}' has no effect, because {existing.path} defines it, too"
            )
            continue
        try:
            definitions[agent.name] = complete_definition(agent, runtime.routes, runtime.workspaces)
        except InvalidSettings as error:
            warnings.append(f"skipped the stored agent '{agent.name}': {error}")
    if runtime.config.default_agent not in definitions:
        warnings.append(
            f"the default agent '{runtime.config.default_agent}' does not exist; "
            "define it, or name another agent as 'default_agent'"
        )
    rows = (
        ("the cron entry '{}' in cron/crons.toml", runtime.crons),
        ("the subscription '{}' in events/subscriptions.toml", runtime.subscriptions),
    )
    warnings += [
        f"{words.format(row_id)} wakes the agent '{row.target.agent}', which does not exist; "
        "define the agent, or correct the row"
        for words, file in rows
        for row_id, row in ({} if file is None else file.rows).items()
        if row.target.agent is not None and row.target.agent not in definitions
    ]
    return replace(runtime, definitions=dict(sorted(definitions.items())), warnings=tuple(warnings))
