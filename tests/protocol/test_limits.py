"""The limits agree with each other and with what they are made for."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import pytest

from protocol import limits
from protocol.limits.call import (
    MAX_CALLS,
    MAX_EVIDENCE_BYTES,
    MAX_JUDGED_CALLS,
    MAX_JUDGED_REASON_BYTES,
    MAX_PARALLEL_CALLS,
    MAX_PREVIEWS_BYTES,
    MAX_STOPPED_TEXT_BYTES,
    MAX_SUBJECT_BYTES,
    MAX_TOOL_INPUT_BYTES,
    MAX_TOOL_TEXT_BYTES,
    MAX_VERDICT_SUBJECT_BYTES,
    MAX_WAITING_CALLS,
    MAX_WAITING_QUESTIONS,
)
from protocol.limits.debug import (
    DEFAULT_DEBUG_BYTES,
    DEFAULT_DEBUG_TEXT_BYTES,
    MAX_DEBUG_ARTIFACT_BYTES,
    MAX_DEBUG_RUN_BYTES,
    MAX_DEBUG_TEXT_BYTES,
)
from protocol.limits.files import (
    MAX_EDIT_BYTES,
    MAX_HASHED_BYTES,
    MAX_PATCH_BYTES,
    MAX_PATCH_FILES,
    MAX_READ_BYTES,
)
from protocol.limits.model import MAX_ANSWER_BYTES, MAX_PROVIDER_DATA_BYTES
from protocol.limits.names import MAX_AGENT_BYTES, MAX_METADATA_BYTES, MAX_PATH_BYTES, MAX_SENDER_BYTES
from protocol.limits.output import (
    MAX_CONTRACT_BYTES,
    MAX_OUTPUT_BYTES,
    MAX_OUTPUTS,
    MAX_REPAIR_OVERHEAD_BYTES,
)
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_ROWS, MAX_PAGE_ROWS
from protocol.limits.permission import MAX_RESOLUTIONS
from protocol.limits.plan import MAX_PLAN_BYTES, MAX_PLAN_SUMMARY_BYTES, MAX_TODOS_BYTES
from protocol.limits.question import MAX_QUESTIONS_BYTES
from protocol.limits.rpc import (
    MAX_BATCH_MESSAGES,
    MAX_ID_BYTES,
    MAX_LINE_BYTES,
    MAX_NESTING,
    MAX_OPEN_REQUESTS,
    MAX_PARAMS_BYTES,
    MAX_UNSENT_BYTES,
)
from protocol.limits.session import MAX_AGENT_FILE_BYTES, MAX_IMPORT_LINE_BYTES, MAX_INPUT_BYTES
from protocol.limits.store import MAX_CHECKPOINT_BYTES, MAX_UPDATE_BYTES
from protocol.limits.units import KIB

LMDB_KEY_BYTES = 511
RECORDS_BYTES = 16 * KIB


def modules() -> list[ModuleType]:
    """Return every module of limits."""
    return [import_module(f"protocol.limits.{info.name}") for info in iter_modules(limits.__path__)]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_limits_state_their_unit_and_reason(module: ModuleType) -> None:
    """Every limit is a positive whole number, and a comment gives its arithmetic."""
    source = Path(str(module.__file__)).read_text()
    names = re.findall(r"^([A-Z_]+) = ", source, re.MULTILINE)
    assert names
    assert len(names) == len(set(names)), "a limit is declared twice"
    for name in names:
        value = vars(module)[name]
        assert isinstance(value, int), name
        assert value > 0, name
        assert re.search(r"^(MAX|DEFAULT)_|_MS$|^[KMG]IB$", name), f"{name} does not name what it limits"
    if module.__name__ != "protocol.limits.units":
        blocks = re.split(r"\n\n", source[source.index("\n#") + 1 :])
        assert all(block.startswith("#") for block in blocks if block.strip()), "a limit without arithmetic"


def test_each_limit_is_declared_once() -> None:
    """No two modules declare a limit of the same name."""
    names = [
        name
        for module in modules()
        for name in re.findall(r"^([A-Z_]+) = ", Path(str(module.__file__)).read_text(), re.MULTILINE)
    ]
    assert len(names) > 20
    assert sorted(names) == sorted(set(names))


def test_an_input_fits_into_its_transaction() -> None:
    """An input, its metadata, new instructions and the records are within what a transaction may write."""
    parts = MAX_INPUT_BYTES + MAX_METADATA_BYTES + MAX_AGENT_FILE_BYTES
    assert parts + RECORDS_BYTES <= MAX_UPDATE_BYTES


def test_an_answer_fits_into_its_transaction() -> None:
    """So are an answer, a checkpoint and the records."""
    parts = MAX_ANSWER_BYTES + MAX_CHECKPOINT_BYTES
    assert parts + RECORDS_BYTES <= MAX_UPDATE_BYTES


def test_a_batch_of_calls_fits_into_its_transactions() -> None:
    """Judging some calls, taking back what waits as the run ends, stopping what runs, saving a result."""
    open_calls = MAX_CALLS * 190
    record = MAX_SUBJECT_BYTES + MAX_JUDGED_REASON_BYTES + KIB
    verdict = MAX_VERDICT_SUBJECT_BYTES + MAX_JUDGED_REASON_BYTES + 600
    judged = MAX_JUDGED_CALLS * (verdict + 2 * record) + MAX_PREVIEWS_BYTES
    assert judged + open_calls <= MAX_UPDATE_BYTES
    results = MAX_CALLS * 450
    withdrawn = MAX_WAITING_CALLS * record + MAX_WAITING_QUESTIONS * MAX_QUESTIONS_BYTES
    session = 40 * KIB
    assert results + withdrawn + session + RECORDS_BYTES // 2 <= MAX_UPDATE_BYTES
    stopped = MAX_PARALLEL_CALLS * MAX_STOPPED_TEXT_BYTES
    assert results + stopped + session + RECORDS_BYTES // 2 <= MAX_UPDATE_BYTES
    assert 2 * MAX_TOOL_TEXT_BYTES + open_calls + 64 * KIB <= MAX_UPDATE_BYTES
    assert MAX_RESOLUTIONS >= MAX_WAITING_CALLS


def test_what_a_run_gives_fits_into_its_transactions() -> None:
    """An output and a plan beside the result of their call; a repair beside the answer that it is about."""
    open_calls, records = MAX_CALLS * 190, 40 * KIB + KIB
    assert MAX_OUTPUT_BYTES + open_calls + records <= MAX_UPDATE_BYTES
    assert MAX_PLAN_BYTES + MAX_PLAN_SUMMARY_BYTES <= MAX_OUTPUT_BYTES
    # Escaped, a schema is twice as long at most; what is wrong with an answer is a few sentences.
    assert 2 * MAX_CONTRACT_BYTES <= MAX_REPAIR_OVERHEAD_BYTES - 8 * KIB
    assert MAX_REPAIR_OVERHEAD_BYTES < MAX_ANSWER_BYTES
    assert MAX_TODOS_BYTES < MAX_PLAN_BYTES
    assert MAX_OUTPUTS * 10 < KIB


def test_everything_fits_into_a_message() -> None:
    """What is accepted and what is listed fits into one line, escaped or not."""
    assert MAX_PARAMS_BYTES < MAX_LINE_BYTES
    assert (MAX_INPUT_BYTES + MAX_METADATA_BYTES) * 6 < MAX_PARAMS_BYTES
    # What is imported holds its escapes already; a client may send the characters of two bytes as six.
    assert MAX_IMPORT_LINE_BYTES * 3 < MAX_PARAMS_BYTES
    assert MAX_PAGE_BYTES + MAX_UPDATE_BYTES < MAX_LINE_BYTES


def test_names_fit_into_keys() -> None:
    """Two names and their ends are a key."""
    assert MAX_AGENT_BYTES + MAX_SENDER_BYTES + 2 <= LMDB_KEY_BYTES


def test_pages() -> None:
    """A page has a default below its most, and is found in what may be examined."""
    assert DEFAULT_PAGE_ROWS <= MAX_PAGE_ROWS <= MAX_PAGE_EXAMINED_ROWS


def test_what_a_connection_holds_is_bounded() -> None:
    """One connection cannot hold more than the daemon gives to all."""
    assert MAX_OPEN_REQUESTS < MAX_BATCH_MESSAGES
    assert MAX_UNSENT_BYTES <= MAX_LINE_BYTES
    assert MAX_ID_BYTES * MAX_OPEN_REQUESTS <= MAX_UNSENT_BYTES


def test_nesting_leaves_room_on_the_stack() -> None:
    """What arrived can be decoded again from a stack several times as deep."""
    assert MAX_NESTING * 4 <= 1000


def test_debug_captures() -> None:
    """A run holds several of the longest artifacts, all runs many of the fullest; a part fits a message."""
    assert MAX_DEBUG_ARTIFACT_BYTES * 3 < MAX_DEBUG_RUN_BYTES
    assert MAX_DEBUG_RUN_BYTES * 16 < DEFAULT_DEBUG_BYTES
    assert DEFAULT_DEBUG_TEXT_BYTES <= MAX_DEBUG_TEXT_BYTES
    assert MAX_DEBUG_TEXT_BYTES * 6 < MAX_LINE_BYTES


def test_file_tools() -> None:
    """What is read is less than what is edited, and that than what is hashed; a patch has its evidence."""
    assert MAX_READ_BYTES < MAX_EDIT_BYTES < MAX_HASHED_BYTES
    assert MAX_PATCH_FILES * 2 * 67 < MAX_EVIDENCE_BYTES
    assert MAX_EDIT_BYTES <= MAX_PATCH_BYTES <= MAX_TOOL_INPUT_BYTES
    assert MAX_PATH_BYTES <= MAX_SUBJECT_BYTES


def test_provider_data_leaves_room_for_the_answer() -> None:
    """The data of one message and its calls leaves at least 64 KiB of the longest answer."""
    assert MAX_PROVIDER_DATA_BYTES + 64 * KIB <= MAX_ANSWER_BYTES
