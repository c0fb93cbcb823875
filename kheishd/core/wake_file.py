"""Files that declare cron entries or triggers: a table with a row for each of them. Pure.

A row has the properties of the object and the fields of its target side by side, and an ``id``, by which the
state of the object survives every change of the file.
"""

import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Self, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from kheishd.config.toml import find_key_lines, find_line
from kheishd.config.validation import find_problems, format_path
from protocol.ids import Id
from protocol.objects.conversation import DEFAULT_SENDER
from protocol.objects.wake import WakeTarget
from protocol.structs import Value, fields_of

P = TypeVar("P", bound=Struct)


class RowError(Exception):
    """A row that cannot be used: the field, and what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class WakeFile(Value, Generic[P], frozen=True):
    """The valid rows of a file by id, the ids of the others, and a warning about each of those.

    The object of an invalid row stays as it is. If the file is not ``is_readable``, so do all.
    """

    rows: Mapping[str, P]
    invalid: frozenset[str]
    warnings: tuple[str, ...]
    is_readable: bool = True


class WakeFileFormat(Value, Generic[P], frozen=True):
    """A kind of file: its table, the names of its objects, its longest size, and the shape of a row.

    ``hints`` are the remedies for keys that people write instead of the right ones. ``require_valid`` raises
    RowError for properties that contradict each other.
    """

    table: str
    noun: str
    plural: str
    max_bytes: int
    kind: type[P]
    row: type[Struct]
    require_valid: Callable[[P], None]

    @classmethod
    def of(
        cls,
        kind: type[P],
        require_valid: Callable[[P], None],
        *,
        hints: Mapping[str, str],
        **names: Any,
    ) -> Self:
        """Return the format whose rows have the properties ``kind``."""
        own = [
            (field.name, field.type)
            if field.required
            else (field.name, field.type, msgspec.field(default=field.default))
            if field.default is not msgspec.NODEFAULT
            else (field.name, field.type, msgspec.field(default_factory=field.default_factory))
            for field in fields(kind)
            if field.name != "target"
        ]
        row = msgspec.defstruct(
            f"{kind.__name__}Row",
            [("id", Id), *own],
            bases=(WakeTarget,),
            namespace={"KEY_HINTS": hints},
            frozen=True,
            kw_only=True,
            forbid_unknown_fields=True,
        )
        return cls(kind=kind, row=row, require_valid=require_valid, **names)

    def make_unreadable(self, path: object, problem: str) -> WakeFile[P]:
        """Return a file that cannot be read, with the problem."""
        warning = f"the {self.plural} stay as they are: {path}: {problem}"
        return WakeFile({}, frozenset(), (warning,), is_readable=False)

    def parse(self, text: str, path: str) -> WakeFile[P]:
        """Return the rows of a file. A row with a problem is skipped, with a warning that names its line."""
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            return self.make_unreadable(path, str(error))
        lines = find_key_lines(text)
        unknown = [key for key in content if key != self.table]
        warnings = [f"{path}:{find_line(lines, (key,)) or 1}: {key}: unknown key" for key in unknown]
        rows: dict[str, P] = {}
        invalid: set[str] = set()
        listed = content.get(self.table, [])
        for index, row in enumerate(listed if isinstance(listed, list) else [listed]):
            row_id = row.get("id") if isinstance(row, dict) else None
            try:
                properties = self._convert(row)
                if row_id in rows:
                    raise RowError("id", f"the id '{row_id}' is there twice")
            except RowError as error:
                key = (self.table, index, error.field)
                line = find_line(lines, key) or find_line(lines, key[:2]) or 1
                warnings.append(f"skipped the {self.noun} in {path}:{line}: {error.field}: {error.message}")
                if isinstance(row_id, str):
                    invalid.add(row_id)
            else:
                rows[str(row_id)] = properties
        return WakeFile(rows, frozenset(invalid) - rows.keys(), tuple(warnings))

    def _convert(self, row: Any) -> P:
        """Return the properties of a row. Errors: RowError."""
        problem = next(find_problems(self.row, row), None)
        if problem is not None:
            raise RowError(format_path(problem.path) or self.table, problem.message)
        values = msgspec.convert(row, self.row)
        target = WakeTarget(**fields_of(WakeTarget, values))
        require_possible(target)
        if target.agent is not None:
            target = replace(target, sender=target.sender or DEFAULT_SENDER)
        names = (name for name in self.kind.__struct_fields__ if name != "target")
        properties = self.kind(target=target, **{name: getattr(values, name) for name in names})
        self.require_valid(properties)
        return properties


def require_possible(target: WakeTarget) -> None:
    """Require a target with one address and one task. Errors: RowError."""
    if (target.agent is None) == (target.session_id is None):
        raise RowError("agent", "give either 'agent' (with 'sender') or 'session_id'")
    if target.session_id is not None and target.sender is not None:
        raise RowError("sender", "a session has its own sender; leave 'sender' out")
    if (target.prompt is None) == (target.skill is None):
        raise RowError("prompt", "give either 'prompt' or 'skill' (with 'arguments')")
    if target.prompt is not None and not target.prompt.strip():
        raise RowError("prompt", "the prompt is blank")
    if target.prompt is not None and target.arguments:
        raise RowError("arguments", "only a skill takes 'arguments'")


TARGET_HINTS: Final = {
    "session": "write 'session_id'",
    "user": "write 'sender'",
    "message": "write 'prompt'",
    "task": "write 'prompt'",
}
"""Remedies for keys that people write instead of those of a target."""
