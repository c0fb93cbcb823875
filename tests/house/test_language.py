"""The language of the sources: the figures are printed, and none is above its goal."""

import ast
from collections import defaultdict

import pytest

from tests.house.language import Figure, figures, ratio_of_tests, table
from tests.house.sources import sources, tree


@pytest.mark.parametrize("figure", figures(sources()), ids=lambda figure: figure.name)
def test_figures_are_at_their_goals(figure: Figure) -> None:
    """No figure is above its goal; the failure lists the places that count."""
    assert figure.value <= figure.goal, f"{figure}\n" + "\n".join(figure.hits)


def test_tests_are_about_as_long_as_the_source() -> None:
    """Tests and source have comparable length."""
    assert 1.0 <= ratio_of_tests() <= 1.6


def test_the_table_names_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """The table, which is printed, has a line for each figure, with its goal."""
    text = table(sources())
    with capsys.disabled():  # Seen in one process only; contrib/check prints the table in a step of its own.
        print(f"\n{text}")
    assert all(str(figure) in text for figure in figures(sources()))


def test_class_names_are_unique() -> None:
    """No two classes of the sources share a name."""
    places = defaultdict(list)
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path))
    repeated = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not repeated, "\n".join(f"{name}: {', '.join(paths)}" for name, paths in sorted(repeated.items()))


def test_figures_see_hits() -> None:
    """Each kind of hit is recognized in an example."""
    path = next(path for path in sources() if path.name == "codec.py")
    names = [figure.name for figure in figures((path,))]
    assert len(names) == len(set(names)) == 6
