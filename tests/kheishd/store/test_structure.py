"""The check of pages finds everything that LMDB's own verification finds, and nothing in a sound file."""

import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
from lmdb.verify import VerifyError, verify

from kheishd.store.environment import DATA, Transaction
from kheishd.store.structure import MAX_PROBLEMS, check_structure, main
from kheishd.store.tables import CHECKPOINTS, RUNS_BY_SESSION
from tests.support.stores import append, damage_page, fill, find_leaf, open_inline, point_free_page, update

PAGE = os.sysconf("SC_PAGE_SIZE")


def fill_rows(tx: Transaction, start: int) -> None:
    """Write 500 small rows."""
    for row in range(start, start + 500):
        tx.put(RUNS_BY_SESSION, f"ses_{row}", row, value="x" * 40)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the data file of a store with trees of three levels, big values and free pages."""
    directory = tmp_path_factory.mktemp("sound") / "state"
    store = open_inline(directory)
    chance = random.Random(7)
    for number in range(60):
        append(store, f"ses_{number % 5}", "x" * chance.choice((10, 300, 3_000)))
        fill(store, number % 20, chance.randrange(30_000))
    for start in range(0, 4_000, 500):
        update(store, partial(fill_rows, start=start))
    update(store, lambda tx: [tx.delete(CHECKPOINTS, "s", number) for number in range(0, 20, 3)])
    store.close()
    return directory / DATA


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """Provide a copy of the file to damage."""
    return Path(shutil.copy(sound, tmp_path / DATA))


def test_a_sound_file_has_no_problems(sound: Path) -> None:
    """Neither the whole check nor the quick one complains about a sound file."""
    assert check_structure(str(sound)) == check_structure(str(sound), quick=True) == []


def test_one_wrong_number_in_the_list_of_free_pages(data: Path) -> None:
    """The quick check names a page that is in use and listed as free."""
    page = point_free_page(data)
    for quick in (False, True):
        assert f"page {page}, which is in use" in check_structure(str(data), quick=quick)[0]


def test_a_zeroed_page(data: Path) -> None:
    """A page of zeros is named with its table."""
    page = find_leaf(data, "runs_by_session", last=True)
    damage_page(data, page)
    for quick in (False, True):
        assert (
            check_structure(str(data), quick=quick)[0]
            == f"page {page} is not a page of the table 'runs_by_session'"
        )


def test_a_damaged_meta_page(data: Path) -> None:
    """A damaged meta page is a problem, though the other one can be read."""
    damage_page(data, 0)
    assert check_structure(str(data))[0] == "meta page 0 is damaged"


def test_a_file_cut_short(data: Path) -> None:
    """Missing pages are named, without a crash."""
    os.truncate(data, os.path.getsize(data) // 2)
    assert any("cut short" in problem for problem in check_structure(str(data)))


def test_too_many_problems(data: Path) -> None:
    """The number of problems has a limit."""
    for page in range(2, os.path.getsize(data) // PAGE, 2):
        damage_page(data, page, os.urandom(PAGE))
    assert len(check_structure(str(data))) <= MAX_PROBLEMS + 1


def test_an_impossible_size_takes_no_memory(data: Path) -> None:
    """A meta page that counts more pages than memory has bits ends the check."""
    for page in (0, 1):
        with data.open("r+b") as file:
            file.seek(page * PAGE + 16 + 24 + 2 * 48)
            file.write((1 << 40).to_bytes(8, "little"))
    assert "meta page counts" in check_structure(str(data))[0]


def test_the_program_prints_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The child's output is one JSON list; a meta page can be given as of a snapshot."""
    main([str(data), "quick"])
    assert json.loads(capsys.readouterr().out) == []
    content = data.read_bytes()
    older = min((content[:PAGE], content[PAGE : 2 * PAGE]), key=lambda page: page[16 + 24 + 2 * 48 + 8 :][:8])
    main([str(data), "all", older.hex()])
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_a_check_that_fails_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read is a problem, and no traceback."""
    main([str(tmp_path / "none"), "all"])
    assert "FileNotFoundError" in json.loads(capsys.readouterr().out)[0]


def damage(data: Path, sound: bytes, chance: random.Random) -> None:
    """Damage one page, or swap two."""
    page, other = (chance.randrange(len(sound) // PAGE) for _ in range(2))
    previous = sound[page * PAGE : (page + 1) * PAGE]
    content = bytearray(previous)
    match chance.choice(("zero", "flip", "swap", "header", "number", "random")):
        case "zero":
            content[:] = bytes(PAGE)
        case "flip":
            bit = chance.randrange(PAGE * 8)
            content[bit // 8] ^= 1 << bit % 8
        case "header":
            content[chance.randrange(64)] = chance.randrange(256)
        case "number":
            offset = chance.randrange(PAGE // 8) * 8
            content[offset : offset + 8] = other.to_bytes(8, "little")
        case "random":
            content[:] = chance.randbytes(PAGE)
        case _:
            content[:] = sound[other * PAGE : (other + 1) * PAGE]
            damage_page(data, other, previous)
    damage_page(data, page, bytes(content))


@pytest.mark.parametrize("seed", range(4))
def test_everything_that_lmdb_finds_is_found(seed: int, data: Path) -> None:
    """Whatever is done to a page: if LMDB's own verification finds it, so does this check."""
    chance = random.Random(seed)
    sound = data.read_bytes()
    found = 0
    for _ in range(60):
        damage(data, sound, chance)
        try:
            theirs = verify(str(data))  # type: ignore[no-untyped-call]
        except VerifyError as error:
            theirs = [str(error)]
        ours = check_structure(str(data))
        check_structure(str(data), quick=True)
        assert ours or not theirs, theirs
        found += bool(ours)
        data.write_bytes(sound)
    assert found > 10
