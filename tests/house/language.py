"""Figures of the language: how docstrings begin, how names are chosen, how far functions are split.

Run ``python -m tests.house.language [PATH] [--list]`` for the figures of a package and every hit.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.house.sources import ROOT, Function, all_tests, sources, tree

RELATIONAL = re.compile(r"(What|How|Why|Who|Whom|Whose|Where|When|Which)\b")
"""First words of a docstring that describes a thing by its relations instead of naming it."""

VAGUE = frozenset(
    "found asked said kept given shown chosen wanted told each one other before after at how what left held "
    "known who whom why where there those these".split()
)
"""Variable names that name nothing."""

IRREGULAR = frozenset(
    "begun bound brought built caught chosen dealt done drawn felt fought found given gone got heard held "
    "hidden hung kept known laid led left lent lost made meant met paid put risen said seen sent shown sold "
    "spent split stood struck stuck sworn taken thought told torn thrown understood won woken worn wound "
    "written".split()
)
FINE = frozenset(
    "bound cancelled closed embed exceed feed need proceed put seed shed speed split spread".split()
)
"""Words that look like participles but are verbs, or are the field's term for a state."""


class Figure(NamedTuple):
    """One figure with its goal, and the places that count against it."""

    name: str
    value: float
    goal: float
    unit: str
    hits: list[str]

    def __str__(self) -> str:
        return f"{self.name:<44} {self.value:>6.1f}{self.unit:<2} goal {self.goal:g}{self.unit}"


def figures(paths: tuple[Path, ...]) -> list[Figure]:
    """Return the figures of some source files."""
    return [
        relational_docstrings(paths),
        frequency_of_what(paths),
        vague_names(paths),
        participles(paths),
        private_functions_used_once(paths),
        largest_function(paths),
    ]


def relational_docstrings(paths: tuple[Path, ...]) -> Figure:
    """Measure how many docstrings begin with a relative or interrogative word."""
    hits, total = [], 0
    for path in paths:
        for line, text in docstrings(path):
            total += 1
            if RELATIONAL.match(text):
                hits.append(f"{path}:{line}: {text.splitlines()[0][:80]}")
    return Figure("docstrings that begin What/How/Why/Who", 100 * len(hits) / max(total, 1), 2, "%", hits)


def frequency_of_what(paths: tuple[Path, ...]) -> Figure:
    """Measure how often docstrings and comments say "what"."""
    hits, words = [], 0
    for path in paths:
        for line, text in [*docstrings(path), *comments(path)]:
            words += len(re.findall(r"[A-Za-z']+", text))
            hits += [f"{path}:{line}"] * len(re.findall(r"\bwhat\b", text, re.IGNORECASE))
    return Figure('"what" per 1,000 words of prose', 1000 * len(hits) / max(words, 1), 3, "", hits)


def vague_names(paths: tuple[Path, ...]) -> Figure:
    """Measure how many variables and parameters have a name that names nothing."""
    hits, total = [], 0
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            else:
                continue
            total += 1
            if name.strip("_") in VAGUE:
                hits.append(f"{path}:{node.lineno}: {name}")
    return Figure("vague variable names", 100 * len(hits) / max(total, 1), 1, "%", hits)


def participles(paths: tuple[Path, ...]) -> Figure:
    """Measure how many functions are named by a participle instead of a verb."""
    hits, total = [], 0
    for path in paths:
        for function in functions(path):
            total += 1
            word = function.name.strip("_").split("_")[0]
            if word not in FINE and (word in IRREGULAR or (word.endswith("ed") and len(word) > 4)):
                hits.append(f"{path}:{function.lineno}: {function.name}")
    return Figure("functions named by a participle", 100 * len(hits) / max(total, 1), 6, "%", hits)


def private_functions_used_once(paths: tuple[Path, ...]) -> Figure:
    """Measure how many functions are private and referred to exactly once in their file."""
    hits, total = [], 0
    for path in paths:
        references = Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Name | ast.Attribute)
        )
        for function in functions(path):
            total += 1
            private = function.name.startswith("_") and not function.name.startswith("__")
            if private and references[function.name] == 1:
                hits.append(f"{path}:{function.lineno}: {function.name}")
    return Figure("private functions used once", 100 * len(hits) / max(total, 1), 18, "%", hits)


def largest_function(paths: tuple[Path, ...]) -> Figure:
    """Measure the largest function, in lines without its docstring."""
    sizes = [(length(function), f"{path}: {function.name}") for path in paths for function in functions(path)]
    size, place = max(sizes, default=(0, ""))
    return Figure("lines of the largest function", size, 70, "", [place])


def ratio_of_tests() -> float:
    """Return the lines of tests per line of source."""
    return lines(all_tests()) / lines(sources())


def lines(paths: tuple[Path, ...]) -> int:
    """Count the lines of some files."""
    return sum(len((ROOT / path).read_text().splitlines()) for path in paths)


def length(function: Function) -> int:
    """Return the lines of a function from ``def`` to its end, without its docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        total -= first.end_lineno - first.lineno + 1
    return total


def functions(path: Path) -> Iterator[Function]:
    """Yield every function of a file, inner ones included."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


@cache
def docstrings(path: Path) -> list[tuple[int, str]]:
    """Return line and text of every docstring of a file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (getattr(node, "lineno", 1), text)
        for node in ast.walk(tree(path))
        if isinstance(node, documented) and (text := ast.get_docstring(node))
    ]


@cache
def comments(path: Path) -> list[tuple[int, str]]:
    """Return line and text of every comment of a file."""
    tokens = tokenize.generate_tokens(io.StringIO((ROOT / path).read_text()).readline)
    return [(token.start[0], token.string.lstrip("# ")) for token in tokens if token.type == tokenize.COMMENT]


def table(paths: tuple[Path, ...]) -> str:
    """Return the figures as a table."""
    rows = [str(figure) for figure in figures(paths)]
    return "\n".join([*rows, f"{'lines of tests per line of source':<44} {ratio_of_tests():>6.1f}"])


if __name__ == "__main__":
    prefixes = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    measured = tuple(path for path in sources() if str(path).startswith(tuple(prefixes or [""])))
    print(table(measured))
    if "--list" in sys.argv:
        for figure in figures(measured):
            print(f"\n{figure.name}:", *figure.hits, sep="\n  ")
