"""Agent files, ``agents/<name>.md``: YAML front matter and instructions, read strictly.

The file's name is the agent's. A file without front matter is all instructions.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from kheishd.config.toml import KeyPath, find_line
from kheishd.config.validation import Problem, find_problems
from kheishd.core.front_matter import FrontMatterError, load_yaml, split_front_matter
from kheishd.core.run.budget import MICROS, intersect_budgets
from protocol.audience import find_audience_problem
from protocol.budget import Budget
from protocol.ids import ID_PATTERN
from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_MICROS, MAX_WORK_SECONDS
from protocol.limits.names import MAX_MODEL_BYTES, MAX_PATH_BYTES, MAX_SCOPE_BYTES
from protocol.limits.permission import MAX_RULES
from protocol.limits.session import MAX_AGENT_FILE_BYTES
from protocol.objects.definition import Definition
from protocol.objects.permission import PermissionMode, Rule
from protocol.objects.run import Busy
from protocol.objects.session import Allowlist

DEFAULT_INSTRUCTIONS: Final = (
    "You are a helpful, careful assistant. Answer plainly and concretely. "
    "Say so when you do not know something or cannot do it."
)

_LISTS: Final = ("tools", "skills", "mcp", "members")


class FrontMatter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields between the two ``---`` lines; a ``null`` list means everything, an empty one nothing."""

    description: Annotated[str, Meta(max_length=1024)] = ""
    route: str | None = None
    model: Annotated[str, Meta(max_length=MAX_MODEL_BYTES)] | None = None
    max_turns: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_BUDGET_TOKENS)] | None = None
    max_work_s: Annotated[float, Meta(gt=0, le=MAX_WORK_SECONDS)] | None = None
    max_cost: Annotated[float, Meta(gt=0, le=MAX_MICROS // MICROS)] | None = None
    permission_mode: PermissionMode | None = None
    permissions: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    workspace: Annotated[str, Meta(max_length=MAX_PATH_BYTES)] | None = None
    persona: str | None = None
    tools: Allowlist = None
    skills: Allowlist = None
    mcp: Allowlist = None
    members: Allowlist = None
    busy: Busy | None = None


class DefinitionError(FrontMatterError):
    """An agent file is invalid."""


def built_in() -> Definition:
    """Return the agent that always exists, named ``default``."""
    return Definition(
        name="default",
        instructions=DEFAULT_INSTRUCTIONS,
        source="built_in",
        digest=_digest(DEFAULT_INSTRUCTIONS),
        description="The built-in agent.",
    )


def parse(name: str, content: bytes, path: str) -> Definition:
    """Return the agent that a file defines; its ``digest`` is the SHA-256 of its instructions, in hex.

    Errors: DefinitionError, with a line for every problem.
    """
    if not re.fullmatch(ID_PATTERN, name):
        raise DefinitionError([(1, f"{name!r} is not a valid agent name; use A-Z a-z 0-9 . _ : -")])
    if len(content) > MAX_AGENT_FILE_BYTES:
        raise DefinitionError([(1, f"the file is too large; the limit is {MAX_AGENT_FILE_BYTES} bytes")])
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DefinitionError([(content.count(b"\n", 0, error.start) + 1, "not UTF-8")]) from None
    try:
        matter, instructions = split_front_matter(text)
        table, lines = load_yaml(matter) if matter else ({}, {})
    except FrontMatterError as error:
        raise DefinitionError(error.problems) from None
    front = FrontMatter()
    if matter:
        problems = [*find_problems(FrontMatter, table), *_find_unstorable(table), *_find_oversized(table)]
        if problems:
            located = [(find_line(lines, problem.path) or 1, str(problem)) for problem in problems]
            raise DefinitionError(located)
        front = msgspec.convert(table, FrontMatter)
        for index, rule in enumerate(front.permissions):
            problem = find_audience_problem(rule.decision, rule.audience)
            if problem is not None:
                place: KeyPath = ("permissions", index, "audience")
                raise DefinitionError([(find_line(lines, place) or 1, str(Problem(place, problem)))])
    fields = msgspec.structs.asdict(front)
    budget = Budget(
        max_tokens=fields.pop("max_tokens") or 0,
        max_work_s=fields.pop("max_work_s") or 0.0,
        max_cost=fields.pop("max_cost") or 0.0,
    )
    return Definition(
        name=name,
        instructions=instructions,
        source="file",
        digest=_digest(instructions),
        path=path,
        budget=intersect_budgets([budget]),
        **fields,
    )


def find_key_line(content: bytes, key: str) -> int:
    """Return the line of a key in an agent file; 1 if it has no such key."""
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        if re.match(rf"[\"']?{key}[\"']?\s*:", line):
            return number
    return 1


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


def _find_oversized(table: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem if the lists take too much of a session's record, which each event writes again."""
    sizes = {name: len(str(table[name]).encode()) for name in _LISTS if isinstance(table.get(name), list)}
    if sum(sizes.values()) > MAX_SCOPE_BYTES:
        longest = max(sizes, key=lambda name: sizes[name])
        yield Problem((longest,), f"the lists of names exceed {MAX_SCOPE_BYTES} bytes in total")


def _digest(instructions: str) -> str:
    return hashlib.sha256(instructions.encode()).hexdigest()
