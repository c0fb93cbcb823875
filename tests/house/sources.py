"""The source files, as paths, modules and syntax trees, for the house tests."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "kheishd", "kheishctl")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources() -> tuple[Path, ...]:
    """Every source file, relative to the root."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(sorted(path.relative_to(ROOT) for path in found))


@cache
def all_tests() -> tuple[Path, ...]:
    """Every Python file of the tests, relative to the root."""
    return tuple(sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse((ROOT / path).read_text(), str(path))


def module(path: Path) -> str:
    """Return the dotted name of a file; a package is its ``__init__``."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> frozenset[str]:
    """Return the dotted name of every source file."""
    return frozenset(module(source) for source in sources())


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Yield line and dotted name of every import of a file, type-checking imports included."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the whole name"
            assert node.module
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((node.lineno, inner if inner in modules() else node.module))
    return tuple(found)


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file, inner ones too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, Function):
            yield node


def tracked() -> list[Path]:
    """Return every file under version control, or without one every file of the project."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        names = [Path(name) for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [*sources(), *all_tests(), Path("README.md"), Path("pyproject.toml")]
    return [name for name in names if (ROOT / name).is_file()]
