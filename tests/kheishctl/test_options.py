"""Schemas from files, and amounts of money."""

from pathlib import Path

import click
import pytest

from kheishctl.options import Amount, SchemaFile, make_contract


def test_a_file_is_read(tmp_path: Path) -> None:
    """What it holds is the value; what is a value already stays one."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "string"}')
    assert SchemaFile().convert(str(file), None, None) == {"type": "string"}
    assert SchemaFile().convert({"type": "null"}, None, None) == {"type": "null"}


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff", b"[" * 5_000])
def test_what_is_no_object(tmp_path: Path, content: bytes) -> None:
    """It never reaches the daemon."""
    file = tmp_path / "schema.json"
    file.write_bytes(content)
    with pytest.raises(click.BadParameter, match="schema"):
        SchemaFile().convert(str(file), None, None)


def test_no_file(tmp_path: Path) -> None:
    """The reason is said."""
    with pytest.raises(click.BadParameter, match="No such file"):
        SchemaFile().convert(str(tmp_path / "none"), None, None)


def test_a_contract() -> None:
    """What is not said is left to the daemon; a zero is said."""
    assert make_contract(None, max_repairs=1) is None
    assert make_contract({}, max_repairs=None) == {"schema": {}}
    assert make_contract({}, max_repairs=0) == {"schema": {}, "max_repairs": 0}


@pytest.mark.parametrize(("text", "amount"), [("1", 1.0), ("0.5", 0.5), ("0.000001", 0.000001), (7, 7.0)])
def test_an_amount(text: str | int, amount: float) -> None:
    """An amount is a number of currency units, as it is written."""
    assert Amount().convert(text, None, None) == amount


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1e-999", "1,5"])
def test_what_is_no_amount(text: str) -> None:
    """Text that is not a finite number above 0 is a usage error."""
    with pytest.raises(click.BadParameter, match="is not an amount"):
        Amount().convert(text, None, None)
