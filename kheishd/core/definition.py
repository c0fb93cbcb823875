"""Agent files, ``agents/<name>.md``: YAML front matter and instructions, read strictly.

A definition in the store is read by the same rules. The file's name is the agent's. A file without front
matter is all instructions.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from kheishd.config.sections.mcp import find_server_problems
from kheishd.config.toml import KeyPath, find_line
from kheishd.config.validation import Problem, find_problems
from kheishd.core.front_matter import FrontMatterError, load_yaml, split_front_matter
from kheishd.core.run.budget import intersect_budgets
from protocol.audience import find_audience_problem
from protocol.budget import Budget
from protocol.ids import ID_PATTERN
from protocol.limits.names import MAX_SCOPE_BYTES
from protocol.limits.session import MAX_AGENT_FILE_BYTES
from protocol.objects.definition import Definition, DefinitionSettings

DEFAULT_INSTRUCTIONS: Final = (
    "You are a helpful, careful assistant. Answer plainly and concretely. "
    "Say so when you do not know something or cannot do it."
)

_LISTS: Final = ("tools", "skills", "mcp", "members", "memory")


class DefinitionError(FrontMatterError):
    """An agent file is invalid."""


class InvalidSettings(Exception):
    """The settings of an agent are invalid; has every problem."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def built_in() -> Definition:
    """Return the agent that always exists, named ``default``."""
    return Definition(
        name="default",
        instructions=DEFAULT_INSTRUCTIONS,
        source="built_in",
        digest=_digest(DEFAULT_INSTRUCTIONS),
        description="The built-in agent.",
    )


def parse(name: str, content: bytes, path: str | None) -> Definition:
    """Return the agent that a file defines; with ``path`` None, a text of that form for the store.

    Errors: DefinitionError, with a line for every problem.
    """
    if len(content) > MAX_AGENT_FILE_BYTES:
        raise DefinitionError([(1, f"the file is too large; the limit is {MAX_AGENT_FILE_BYTES} bytes")])
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DefinitionError([(content.count(b"\n", 0, error.start) + 1, "not UTF-8")]) from None
    settings = DefinitionSettings()
    try:
        matter, instructions = split_front_matter(text)
        table, lines = load_yaml(matter) if matter else ({}, {})
    except FrontMatterError as error:
        raise DefinitionError(error.problems) from None
    if matter:
        problems = [*find_problems(DefinitionSettings, table), *_find_unstorable(table)]
        if problems:
            raise DefinitionError(_locate(lines, problems))
        settings = msgspec.convert(table, DefinitionSettings)
    try:
        return make_definition(name, settings, instructions, path)
    except InvalidSettings as error:
        raise DefinitionError(_locate(lines, error.problems)) from None


def make_definition(
    name: str, settings: DefinitionSettings, instructions: str, path: str | None
) -> Definition:
    """Return an agent; its ``digest`` is the SHA-256 of its instructions, in hex. Errors: InvalidSettings."""
    if not re.fullmatch(ID_PATTERN, name):
        raise InvalidSettings([Problem((), f"{name!r} is not a valid agent name; use A-Z a-z 0-9 . _ : -")])
    fields = msgspec.structs.asdict(settings)
    # The names are part of a session's record, which each event writes again.
    sizes = {key: len(str(fields[key]).encode()) for key in _LISTS if fields[key] is not None}
    if sum(sizes.values()) > MAX_SCOPE_BYTES:
        longest = max(sizes, key=lambda key: sizes[key])
        raise InvalidSettings(
            [Problem((longest,), f"the lists of names exceed {MAX_SCOPE_BYTES} bytes in total")]
        )
    for index, rule in enumerate(settings.permissions):
        problem = find_audience_problem(rule.decision, rule.audience)
        if problem is not None:
            raise InvalidSettings([Problem(("permissions", index, "audience"), problem)])
    for server, own in settings.mcp_servers.items():
        problems = list(find_server_problems(own, ("mcp_servers", server)))
        if problems:
            raise InvalidSettings(problems)
    budget = Budget(
        max_tokens=fields.pop("max_tokens") or 0,
        max_work_s=fields.pop("max_work_s") or 0.0,
        max_cost=fields.pop("max_cost") or 0.0,
    )
    return Definition(
        name=name,
        instructions=instructions,
        source="stored" if path is None else "file",
        digest=_digest(instructions),
        path=path,
        budget=intersect_budgets([budget]),
        **fields,
    )


def _locate(lines: dict[KeyPath, int], problems: list[Problem]) -> list[tuple[int, str]]:
    return [(find_line(lines, problem.path) or 1, str(problem)) for problem in problems]


def locate_settings(content: bytes, error: InvalidSettings) -> DefinitionError:
    """Return the problems of an agent file's settings with the lines of their keys; 1 without a line."""
    lines = content.decode("utf-8-sig", "replace").splitlines()
    problems = []
    for problem in error.problems:
        pattern = re.compile(rf"[\"']?{problem.path[0]}[\"']?\s*:")
        located = (number for number, line in enumerate(lines, 1) if pattern.match(line))
        problems.append((next(located, 1), str(problem)))
    return DefinitionError(problems)


def _find_unstorable(table: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each value that YAML can express and neither the wire nor a record can hold."""
    for name, value in table.items():
        try:
            msgspec.msgpack.encode(value)
        except OverflowError:
            yield Problem((name,), "a whole number of more than 64 bits")
        except UnicodeEncodeError:
            yield Problem((name,), "an unpaired surrogate, which is not a character")
        except (TypeError, RecursionError):
            pass  # A wrong type, which is reported by find_problems.


def _digest(instructions: str) -> str:
    return hashlib.sha256(instructions.encode()).hexdigest()
