"""The sections of ``config.toml``: defaults, descriptions and the helpers beside them."""

import ast
import inspect
import sys
from itertools import pairwise

import msgspec
import pytest

from kheishd.config.reader import parse
from kheishd.config.sections.config import Config
from kheishd.config.sections.listen import ListenSection, SharedGrant, split_address
from kheishd.config.sections.routes import RouteSection
from kheishd.config.sections.runs import RunsSection
from kheishd.config.sections.section import Section
from kheishd.config.sections.tools import ToolsSection
from protocol.budget import Budget


def sections(section: type[Section] = Section) -> list[type[Section]]:
    """Return all section structs."""
    return [found for child in section.__subclasses__() for found in (child, *sections(child))]


def described(section: type[Section]) -> set[str]:
    """Return the keys that a string below the field describes."""
    tree = ast.parse(inspect.getsource(sys.modules[section.__module__]))
    structs = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return {
        field.target.id
        for field, text in pairwise(structs[section.__name__].body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


@pytest.mark.parametrize("section", sections())
def test_every_key_is_described(section: type[Section]) -> None:
    """Each key has a description, except for keys that are sections themselves."""
    keys = set(section.__struct_fields__)
    keys -= {"limits"} if section is ToolsSection else set()
    if section in (Config, ListenSection):
        keys &= {"default_agent", "default_route"}
    assert keys == described(section)


@pytest.mark.parametrize("section", sorted(set(sections()) - {RouteSection, SharedGrant}, key=repr))
def test_defaults_are_allowed_values(section: type[Section]) -> None:
    """The defaults of a section satisfy the section's own limits."""
    assert msgspec.convert(msgspec.to_builtins(section()), section) == section()


def test_optional_features_are_off_by_default() -> None:
    """Without configuration, nothing is captured or named, and only the private socket is open."""
    config = Config()
    assert (config.debug.capture, config.titles.auto) == ("off", False)
    assert (config.listen.tcp, config.listen.shared) == (None, None)


def test_budget_of_runs() -> None:
    """The limits on a run's use make a budget; 0 is no limit."""
    assert RunsSection().budget == Budget()
    text = "[runs]\nmax_tokens = 5\nmax_work_s = 60\nmax_cost = 0.5"
    assert parse(text).runs.budget == Budget(max_tokens=5, max_work_s=60.0, max_cost=0.5)


def test_split_address() -> None:
    """Addresses of both families are split into host and port."""
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:443") == ("::1", 443)
