"""What a run must give and may cost, on the command line: schemas in files, amounts of money."""

import json
from math import inf
from pathlib import Path
from typing import Any

import click

from kheishctl.client import Json


class SchemaFile(click.ParamType[Json]):
    """A file that holds a JSON object, such as a JSON Schema. The daemon judges what is in it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Json:
        """The object. Errors: a usage error if the file cannot be read or holds none."""
        if isinstance(value, dict):
            return value
        try:
            content = json.loads(Path(value).read_bytes())
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value} is not JSON: {error}", param, ctx)
        if not isinstance(content, dict):
            self.fail(f"{value} does not hold a JSON object", param, ctx)
        return content


class Amount(click.ParamType[float]):
    """A positive amount of money, ``0.5``, in units of a currency."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the amount. Errors: a usage error unless it is a finite number above 0."""
        try:
            amount = float(value)
        except ValueError:
            amount = 0.0
        if not 0 < amount < inf:
            self.fail(f"{value!r} is not an amount such as 0.5", param, ctx)
        return amount


def contract(schema: Json | None, **others: Any) -> Json | None:
    """A contract of a schema, as methods take it; None without one."""
    if schema is None:
        return None
    return {"schema": schema, **{name: value for name, value in others.items() if value is not None}}
