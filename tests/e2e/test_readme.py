"""The README and the pages of contrib/docs show what the programs do."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from kheishd.config.sections.config import Config
from tests.support.daemons import short_home
from tests.support.programs import BIN, ROOT, environment

README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "contrib" / "docs").glob("*.md")))]


@pytest.fixture
def surroundings() -> Iterator[dict[str, str]]:
    """Provide the environment of a new user, whose daemon ends with the test."""
    with short_home() as home:
        home.mkdir()
        environ = environment(HOME=str(home), PATH=f"{BIN}:/usr/bin:/bin")
        yield environ
        subprocess.run(["kheishctl", "daemon", "stop"], env=environ, check=False, capture_output=True)


def commands() -> Iterator[tuple[str, str]]:
    """Yield every command of a console block, and its output."""
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
            for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = example.partition("\n")
                yield command, output


def pattern(output: str) -> str:
    """Return an output as a regular expression: an ellipsis matches anything on its line."""
    return re.escape(output).replace("…", ".*")


def test_the_sessions_shown_happen_as_shown(surroundings: dict[str, str]) -> None:
    """Each command, typed in order by a new user, prints what the README says it prints."""
    for command, output in commands():
        done = subprocess.run(
            ["bash", "-c", command], env=surroundings, capture_output=True, text=True, timeout=60, check=False
        )
        said = done.stdout + done.stderr
        assert re.fullmatch(pattern(output), said), f"$ {command}\n{said}\ninstead of\n{output}"


def test_every_path_named_exists() -> None:
    """A file or directory of the project that the README names is there."""
    paths = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:contrib|protocol|kheishd|kheishctl|tests)(?:/[\w.{},-]+)+)`", page)
    }
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    assert len(paths) > 5


def test_the_readme_is_short() -> None:
    """The README has at most 350 lines; details are in contrib/docs."""
    assert len(README.splitlines()) <= 350


def settings(shape: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its default; one of a route stands under its id."""
    for field in msgspec.structs.fields(shape):
        name = f"{prefix}{field.encode_name}"
        inner = [arm for arm in (field.type, *get_args(field.type)) if isinstance(arm, type)]
        tables = [arm for arm in inner if issubclass(arm, msgspec.Struct)]
        if tables and get_origin(field.type) is not list:
            yield from settings(tables[0], f"{name}.ID." if get_origin(field.type) is dict else f"{name}.")
        else:
            yield name, field.default_factory() if callable(field.default_factory) else field.default


def test_every_setting_is_explained() -> None:
    """The table has each key that config.toml may hold, no other, and the default of each."""
    table = README.partition("### Settings")[2].partition("\n## ")[0]
    shown: dict[str, str] = {}
    for keys, defaults in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE):
        names = re.findall("`(.*?)`", keys)
        shown |= dict(zip(names, (defaults.split(", ") * len(names))[: len(names)], strict=True))
    there = dict(settings(Config))
    assert shown.keys() == there.keys()
    for name, default in there.items():
        if default is not msgspec.NODEFAULT and default is not None:
            assert shown[name].strip("`") == msgspec.json.encode(default).decode(), name


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    """The configuration shown is one that the daemon takes."""
    from kheishd.config.reader import load

    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert blocks
    shown = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        shown.append(load(path))
    assert any(config.routes for config in shown)
    assert any(config.permissions.rules for config in shown)
