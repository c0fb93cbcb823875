"""Every source file has its test file, and every test file its source."""

from pathlib import Path

from tests.house.sources import PACKAGES, ROOT, all_tests, sources

EXEMPT = {"__init__.py", "__main__.py"}

DECLARATIONS = (
    Path("protocol/errors"),
    Path("protocol/events"),
    Path("protocol/limits"),
    Path("kheishd/config/sections"),
)
"""Packages that only declare values. One file tests the whole package: tests/protocol/test_errors.py."""


def mirror(source: Path) -> Path:
    """Return the path of a source file's tests."""
    if source.parent in DECLARATIONS:
        return Path("tests") / source.parent.with_name(f"test_{source.parent.name}.py")
    return Path("tests") / source.with_name(f"test_{source.name}")


def test_every_source_has_its_tests() -> None:
    """kheishd/store/writer.py is tested by tests/kheishd/store/test_writer.py."""
    there = set(all_tests())
    missing = [
        f"{source} needs {mirror(source)}"
        for source in sources()
        if source.name not in EXEMPT and mirror(source) not in there
    ]
    assert not missing, "sources without tests:\n" + "\n".join(missing)


def test_every_test_has_its_source() -> None:
    """A test file of a room tests one file of that room; tests of several files are in tests/e2e."""
    mirrors = {mirror(source) for source in sources()}
    orphans = [
        str(path)
        for path in all_tests()
        if path.parts[1] in PACKAGES and path.name.startswith("test_") and path not in mirrors
    ]
    assert not orphans, "tests of no source file:\n" + "\n".join(orphans)


def test_programs_are_tested_whole() -> None:
    """The installed programs, which have no test file of their own, are driven by tests/e2e."""
    assert list((ROOT / "tests" / "e2e").glob("test_*.py")), "tests/e2e has no tests"
