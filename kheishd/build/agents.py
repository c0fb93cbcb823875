"""Read the agents' files, ``<home>/agents/<name>.md``."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kheishd.config.sections.config import BUILT_IN_AGENT
from kheishd.core import definition
from kheishd.core.definition import DefinitionError
from kheishd.core.workspace import Workspaces
from kheishd.kernel.runtime import RouteSpec
from kheishd.objects.talk.workspace import resolve
from protocol.errors.session import WorkspaceForbidden
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
    if agent.route is not None and agent.route not in routes:
        known = ", ".join(sorted(routes))
        message = f"route: no route '{agent.route}'; configured routes: {known}"
        raise DefinitionError([(definition.find_key_line(content, "route"), message)])
    if agent.workspace is None:
        return agent
    try:
        # A relative workspace begins at the root.
        workspace = resolve(os.path.expanduser(agent.workspace), workspaces.root)
        if workspace is None:
            raise WorkspaceForbidden("the path is too long or has unprintable characters")
        workspaces.require_allowed(workspace)
    except WorkspaceForbidden as refusal:
        line = definition.find_key_line(content, "workspace")
        raise DefinitionError([(line, f"workspace: {refusal.message}")]) from None
    return msgspec.structs.replace(agent, workspace=workspace)
