"""Tests of the README and contrib/docs: examples, paths and settings agree with the programs."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from kheishd.config.sections.config import Config
from kheishd.core.cron.file import CRON_FILE
from kheishd.core.subscriptions import SUBSCRIPTION_FILE
from tests.support.daemons import short_home
from tests.support.programs import BIN, ROOT, environment

README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "contrib" / "docs").glob("*.md")))]


@pytest.fixture
def surroundings() -> Iterator[dict[str, str]]:
    """Provide the environment of a new user, whose daemon ends with the test."""
    with short_home() as home:
        (home / "lamp").mkdir(parents=True)
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


def test_the_examples_print_their_output(surroundings: dict[str, str]) -> None:
    """Each command of the README, typed in order by a new user, prints the output shown."""
    for command, output in commands():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=f"{surroundings['HOME']}/lamp",
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        output_text = done.stdout + done.stderr
        assert re.fullmatch(pattern(output), output_text), f"$ {command}\n{output_text}\ninstead of\n{output}"


def test_the_files_of_the_examples_are_valid() -> None:
    """Every row that the pages show for the files of entries and of triggers is read without a warning."""
    kinds: dict[str, Any] = {"cron": CRON_FILE, "subscription": SUBSCRIPTION_FILE}
    blocks = [block for page in PAGES for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    read = [
        kind.parse(block, name) for name, kind in kinds.items() for block in blocks if f"[[{name}]]" in block
    ]
    assert [file.warnings for file in read] == [()] * len(read)
    assert len(read) >= len(kinds)


def test_every_path_named_exists() -> None:
    """Every file or directory that the README names exists."""
    paths = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:contrib|protocol|kheishd|kheishctl|tests)(?:/[\w.{},-]+)+)`", page)
    }
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    assert len(paths) > 5


def test_the_readme_is_short() -> None:
    """The README has at most 350 lines."""
    assert len(README.splitlines()) <= 350


def settings(shape: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every configuration key with its default; keys of a route are below its id."""
    for field in msgspec.structs.fields(shape):
        name = f"{prefix}{field.encode_name}"
        inner = [arm for arm in (field.type, *get_args(field.type)) if isinstance(arm, type)]
        tables = [arm for arm in inner if issubclass(arm, msgspec.Struct)]
        if tables and get_origin(field.type) is not list:
            yield from settings(tables[0], f"{name}.ID." if get_origin(field.type) is dict else f"{name}.")
        else:
            yield name, field.default_factory() if callable(field.default_factory) else field.default


def test_every_setting_is_explained() -> None:
    """The table has exactly the keys of config.toml, each with its default."""
    table = (ROOT / "contrib/docs/settings.md").read_text()
    documented: dict[str, str] = {}
    for keys, defaults in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE):
        names = re.findall("`(.*?)`", keys)
        documented |= dict(zip(names, (defaults.split(", ") * len(names))[: len(names)], strict=True))
    existing = dict(settings(Config))
    assert documented.keys() == existing.keys()
    for name, default in existing.items():
        if default is not msgspec.NODEFAULT and default is not None:
            assert documented[name].strip("`") == msgspec.json.encode(default).decode(), name


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    """The daemon accepts the configuration that the README shows."""
    from kheishd.config.reader import load

    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert blocks
    configs = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        configs.append(load(path))
    assert any(config.permissions.rules for config in configs)
    routes = next(config.routes for config in configs if config.routes)
    # Without a driver, a route to OpenAI speaks the Responses API.
    assert {route.driver for route in routes.values()} == {"openai", None, "anthropic", "google"}
    assert {route.preset for route in routes.values()} >= {"llamacpp", "openrouter"}


def test_the_routes_in_the_documentation_are_valid(tmp_path: Path) -> None:
    """The daemon accepts every route that the page about models shows."""
    from kheishd.config.reader import load

    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "contrib/docs/models.md").read_text(), re.DOTALL)
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        assert load(path).routes
