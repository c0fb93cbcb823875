"""The search for a mention among 100,000 files at each key, beside prompt-toolkit's fuzzy completion."""

from __future__ import annotations

import random
from time import process_time_ns
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, FuzzyWordCompleter
from prompt_toolkit.document import Document

from contrib.bench.processes import on_core
from contrib.bench.table import Round, Row, at_most
from kheishctl.shell.file_index import FileIndex
from kheishctl.shell.mentions import MAX_MENTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from contrib.bench.scale import Scale

WORDS = (
    "agent build button chat client config core daemon event file hook index invoice layout lib model order "
    "parse payment prompt render report server shell src store table test text tool user util view widget"
).split()

TYPED = ("prompt", "shlprm", "src/core/prompt", "invoice_order12", "zzz", "eeeeee")
"""Words that are typed letter by letter: a name, letters of one, a path, a rare name, and odd ones."""


def make_paths(count: int) -> list[str]:
    """Return different paths with one to eight directories."""
    numbers = random.Random(3)
    directories = [""]
    while len(directories) < count // 16 + 2:
        parent = numbers.choice(directories)
        if parent.count("/") < 8:
            directories.append(f"{parent}{numbers.choice(WORDS)}{numbers.choice(('', 's', '_v2', '-x'))}/")
    paths: dict[str, None] = {}
    while len(paths) < count:
        name = f"{numbers.choice(WORDS)}_{numbers.choice(WORDS)}{numbers.randrange(300)}"
        paths[f"{numbers.choice(directories)}{name}.{numbers.choice(('py', 'ts', 'md'))}"] = None
    return list(paths)


def slowest(search: Callable[[str], object], keys: Sequence[str]) -> float:
    """Return the processor time of the slowest search, in milliseconds: a search waits for nothing."""
    times = []
    for query in keys:
        began = process_time_ns()
        search(query)
        times.append(process_time_ns() - began)
    return max(times) / 1e6


def measure(scale: Scale) -> Iterator[Row]:
    """Measure the slowest key of several words."""
    paths = make_paths(scale.pick(100_000, 500))
    index, completer = FileIndex(paths), FuzzyWordCompleter(paths, WORD=True)
    keys = [word[:length] for word in TYPED for length in range(1, len(word) + 1)]
    with on_core():
        rounds = [
            Round(
                slowest(lambda query: index.search(query, MAX_MENTIONS), keys),
                # It takes a second for each key, so it is asked for the whole words only.
                slowest(
                    lambda query: list(completer.get_completions(Document(query), CompleteEvent())), TYPED[:2]
                ),
            )
            for _ in scale.rounds
        ]
    title = f"@ in the chat, {len(paths):,} files, slowest key, processor time"
    yield Row(title, "ms", rounds, at_most(50), "figure", "prompt-toolkit")
