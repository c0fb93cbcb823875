"""Functions and files are small; exported names have docstrings and annotations."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median, quantiles

from tests.house.sources import ROOT, Function, functions, sources, tree

MAX_FUNCTION_LINES = 70
FUNCTION_LINES_P95 = 45
FUNCTION_LINES_MEAN = 15
MAX_FILE_LINES = 800
FILE_LINES_MEDIAN = 200


def lines(function: Function) -> int:
    """Return the lines of a function from ``def`` to its end, without its docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        total -= first.end_lineno - first.lineno + 1
    return total


def sizes() -> dict[str, int]:
    """Return the lines of every function, by its position."""
    return {
        f"{path}:{function.lineno}: {function.name}": lines(function)
        for path in sources()
        for function in functions(path)
    }


def test_no_function_is_long() -> None:
    """No function has more than 70 lines, its docstring not counted."""
    long = [f"{where}: {size} lines" for where, size in sizes().items() if size > MAX_FUNCTION_LINES]
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_functions_are_small() -> None:
    """Functions have 15 lines on average, and 95 of 100 have 45 at most."""
    found = sizes()
    longest = sorted(found.items(), key=lambda item: -item[1])[:20]
    text = "the longest functions:\n" + "\n".join(f"{where}: {size}" for where, size in longest)
    assert mean(found.values()) <= FUNCTION_LINES_MEAN, text
    assert quantiles(found.values(), n=20)[-1] <= FUNCTION_LINES_P95, text


def test_files_are_small() -> None:
    """No file has more than 800 lines; half of them have 200 at most."""
    found = {path: len((ROOT / path).read_text().splitlines()) for path in sources()}
    long = [f"{path}: {size} lines" for path, size in found.items() if size > MAX_FILE_LINES]
    assert not long, f"files over {MAX_FILE_LINES} lines:\n" + "\n".join(long)
    assert median(size for size in found.values() if size) <= FILE_LINES_MEDIAN


def exported(path: Path) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield the public classes and functions of a file, and the public methods of those classes."""
    for node in tree(path).body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, Function) and not inner.name.startswith("_"):
                yield f"{node.name}.{inner.name}", inner


def decorated(node: Function, name: str) -> bool:
    """Whether a function has a decorator of that name."""
    return any(name in ast.unparse(decorator) for decorator in node.decorator_list)


def test_exported_names_have_docstrings() -> None:
    """Every module with content, and every exported class, function and method has a docstring."""
    missing = [f"{path}: the module" for path in sources() if tree(path).body and not docstring(tree(path))]
    for path in sources():
        for name, node in exported(path):
            excused = isinstance(node, Function) and (
                decorated(node, "overload") or decorated(node, "setter")
            )
            if not excused and not docstring(node):
                missing.append(f"{path}:{node.lineno}: {name}")
    assert not missing, "exported without a docstring:\n" + "\n".join(missing)


def docstring(node: ast.Module | ast.ClassDef | Function) -> str | None:
    """Return the docstring of a module, class or function."""
    return ast.get_docstring(node)


def unannotated(node: Function) -> list[str]:
    """Return the arguments of a function without annotation, and ``return`` without one."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    names = [each.arg for each in every if each.annotation is None and each.arg not in ("self", "cls")]
    return names + ([] if node.returns is not None else ["return"])


def test_exported_names_have_annotations() -> None:
    """Every argument and result of an exported function has its type."""
    missing = [
        f"{path}:{node.lineno}: {name}: {', '.join(names)}"
        for path in sources()
        for name, node in exported(path)
        if isinstance(node, Function) and (names := unannotated(node))
    ]
    assert not missing, "exported without annotations:\n" + "\n".join(missing)
