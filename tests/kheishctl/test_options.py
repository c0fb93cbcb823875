"""Shared options and argument types."""

from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import fields

from kheishctl.options import COMPLETIONS, Amount, Name, SchemaFile, make_contract
from protocol.events.event import EventPublished
from protocol.rpc.catalogue import METHODS
from tests.support.ctl import Ctl


def test_a_file_is_read(tmp_path: Path) -> None:
    """A schema file holds the value; a value stays unchanged."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "string"}')
    assert SchemaFile().convert(str(file), None, None) == {"type": "string"}
    assert SchemaFile().convert({"type": "null"}, None, None) == {"type": "null"}


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff", b"[" * 5_000])
def test_invalid_schema_files(tmp_path: Path, content: bytes) -> None:
    """A file without a JSON object is a usage error."""
    file = tmp_path / "schema.json"
    file.write_bytes(content)
    with pytest.raises(click.BadParameter, match="schema"):
        SchemaFile().convert(str(file), None, None)


def test_missing_schema_file(tmp_path: Path) -> None:
    """The message about a missing file holds the system's reason."""
    with pytest.raises(click.BadParameter, match="No such file"):
        SchemaFile().convert(str(tmp_path / "none"), None, None)


def test_make_contract() -> None:
    """Limits that are not given are left to the daemon; a zero is sent."""
    assert make_contract(None, max_repairs=1) is None
    assert make_contract({}, max_repairs=None) == {"schema": {}}
    assert make_contract({}, max_repairs=0) == {"schema": {}, "max_repairs": 0}


@pytest.mark.parametrize(("text", "amount"), [("1", 1.0), ("0.5", 0.5), ("0.000001", 0.000001), (7, 7.0)])
def test_an_amount(text: str | int, amount: float) -> None:
    """An amount is a number of currency units, as it is written."""
    assert Amount().convert(text, None, None) == amount


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1e-999", "1,5"])
def test_invalid_amounts(text: str) -> None:
    """Text that is not a finite number above 0 is a usage error."""
    with pytest.raises(click.BadParameter, match="is not an amount"):
        Amount().convert(text, None, None)


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_completions_exist(kind: str) -> None:
    """Every source of completions is a list of the protocol whose rows have the field."""
    method, params, plural, field = COMPLETIONS[kind]
    msgspec.convert(params, METHODS[method].params)
    (rows,) = [item for item in fields(METHODS[method].result) if item.name == plural]
    (row,) = get_args(rows.type)
    # Lines of the journal are sent as they are stored.
    row = EventPublished if row is Raw else row
    assert field in {item.name for item in fields(row)}


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_name_is_refused(text: str) -> None:
    """An empty name is a mistake of a script, not the default."""
    with pytest.raises(click.UsageError, match="it is empty"):
        Name().convert(text, None, None)
    assert Name().convert("ann", None, None) == "ann"


def test_a_limit_that_is_no_number(ctl: Ctl) -> None:
    """The message about a limit says that it is a whole number, or names the range."""
    assert "'x' is not a valid whole number." in ctl("run", "list", "--limit", "x").err
    assert "0 is not in the range" in ctl("run", "list", "--limit", "0").err
