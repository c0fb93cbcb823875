"""The limits agree with each other and with what they are made for."""

import re
from pathlib import Path

from protocol import limits

LMDB_KEY_BYTES = 511
RECORDS_BYTES = 16 * limits.KIB


def test_limits_are_named_with_their_unit() -> None:
    """Every limit is a positive whole number, and its comment says why it is that one."""
    source = Path(limits.__file__).read_text()
    named = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert len(named) > 20
    for name, value in named.items():
        assert isinstance(value, int), name
        assert value > 0, name
        assert re.search(r"_(MAX|DEFAULT|MS)$|^[KM]IB$", name), f"{name} does not say what it limits"
    blocks = re.split(r"\n\n", source.split("MIB = ")[1])[1:]
    assert all(block.startswith("#") for block in blocks if block.strip()), "a limit without its arithmetic"


def test_each_limit_is_there_once() -> None:
    """A second one of the same name would take the place of the first, and nobody would be told."""
    names = re.findall(r"^([A-Z_]+) = ", Path(limits.__file__).read_text(), re.MULTILINE)
    assert sorted(names) == sorted(set(names))


def test_an_input_fits_into_its_transaction() -> None:
    """An input, its metadata, new instructions and the records are within what a transaction may write."""
    parts = limits.MAX_INPUT_BYTES + limits.MAX_METADATA_BYTES + limits.MAX_AGENT_FILE_BYTES
    assert parts + RECORDS_BYTES <= limits.MAX_UPDATE_BYTES


def test_an_answer_fits_into_its_transaction() -> None:
    """So are an answer, a checkpoint and the records."""
    parts = limits.MAX_ANSWER_BYTES + limits.MAX_CHECKPOINT_BYTES
    assert parts + RECORDS_BYTES <= limits.MAX_UPDATE_BYTES


def test_a_batch_of_calls_fits_into_its_transactions() -> None:
    """Judging some calls, taking back what waits as the run ends, stopping what runs, saving a result."""
    open_calls = limits.MAX_CALLS * 190
    record = limits.MAX_SUBJECT_BYTES + limits.MAX_JUDGED_REASON_BYTES + limits.KIB
    verdict = limits.MAX_VERDICT_SUBJECT_BYTES + limits.MAX_JUDGED_REASON_BYTES + 600
    judged = limits.MAX_CALLS_JUDGED * (verdict + 2 * record) + limits.MAX_PREVIEWS_BYTES
    assert judged + open_calls <= limits.MAX_UPDATE_BYTES
    results = limits.MAX_CALLS * 450
    withdrawn = limits.MAX_WAITING_CALLS * record + limits.MAX_WAITING_QUESTIONS * limits.MAX_QUESTIONS_BYTES
    session = 40 * limits.KIB
    assert results + withdrawn + session + RECORDS_BYTES // 2 <= limits.MAX_UPDATE_BYTES
    stopped = limits.MAX_PARALLEL_CALLS * limits.MAX_LAST_WORDS_BYTES
    assert results + stopped + session + RECORDS_BYTES // 2 <= limits.MAX_UPDATE_BYTES
    assert 2 * limits.MAX_TOOL_TEXT_BYTES + open_calls + 64 * limits.KIB <= limits.MAX_UPDATE_BYTES
    assert limits.MAX_RESOLUTIONS >= limits.MAX_WAITING_CALLS


def test_what_a_run_gives_fits_into_its_transactions() -> None:
    """An output and a plan beside the result of their call; a repair beside the answer that it is about."""
    open_calls, records = limits.MAX_CALLS * 190, 40 * limits.KIB + limits.KIB
    assert limits.MAX_OUTPUT_BYTES + open_calls + records <= limits.MAX_UPDATE_BYTES
    assert limits.MAX_PLAN_BYTES + limits.MAX_PLAN_SUMMARY_BYTES <= limits.MAX_OUTPUT_BYTES
    # Escaped, a schema is twice as long at most; what is wrong with an answer is a few sentences.
    assert 2 * limits.MAX_CONTRACT_BYTES <= limits.MAX_CONTRACT_ROOM_BYTES - 8 * limits.KIB
    assert limits.MAX_CONTRACT_ROOM_BYTES < limits.MAX_ANSWER_BYTES
    assert limits.MAX_TODOS_BYTES < limits.MAX_PLAN_BYTES
    assert limits.MAX_OUTPUTS * 10 < limits.KIB


def test_everything_fits_into_a_message() -> None:
    """What is accepted and what is listed fits into one line, escaped or not."""
    assert limits.MAX_PARAMS_BYTES < limits.MAX_LINE_BYTES
    assert (limits.MAX_INPUT_BYTES + limits.MAX_METADATA_BYTES) * 6 < limits.MAX_PARAMS_BYTES
    # What is imported holds its escapes already; a client may send the characters of two bytes as six.
    assert limits.MAX_IMPORT_LINE_BYTES * 3 < limits.MAX_PARAMS_BYTES
    assert limits.MAX_PAGE_BYTES + limits.MAX_UPDATE_BYTES < limits.MAX_LINE_BYTES


def test_names_fit_into_keys() -> None:
    """Two names and their ends are a key."""
    assert limits.MAX_AGENT_BYTES + limits.MAX_SENDER_BYTES + 2 <= LMDB_KEY_BYTES


def test_pages() -> None:
    """A page has a default below its most, and is found in what may be examined."""
    assert limits.DEFAULT_PAGE_ROWS <= limits.MAX_PAGE_ROWS <= limits.MAX_PAGE_EXAMINED


def test_what_a_connection_holds_is_bounded() -> None:
    """One connection cannot hold more than the daemon gives to all."""
    assert limits.MAX_OPEN_REQUESTS < limits.MAX_BATCH_MESSAGES
    assert limits.MAX_UNSENT_BYTES <= limits.MAX_LINE_BYTES
    assert limits.MAX_ID_BYTES * limits.MAX_OPEN_REQUESTS <= limits.MAX_UNSENT_BYTES


def test_nesting_leaves_room_on_the_stack() -> None:
    """What arrived can be decoded again from a stack several times as deep."""
    assert limits.MAX_NESTING * 4 <= 1000


def test_debug_captures() -> None:
    """A run holds several of the longest artifacts, all runs many of the fullest; a part fits a message."""
    assert limits.MAX_DEBUG_ARTIFACT_BYTES * 3 < limits.MAX_DEBUG_RUN_BYTES
    assert limits.MAX_DEBUG_RUN_BYTES * 16 < limits.DEFAULT_DEBUG_BYTES
    assert limits.DEFAULT_DEBUG_TEXT_BYTES <= limits.MAX_DEBUG_TEXT_BYTES
    assert limits.MAX_DEBUG_TEXT_BYTES * 6 < limits.MAX_LINE_BYTES


def test_file_tools() -> None:
    """What is read is less than what is edited, and that than what is hashed; a patch has its evidence."""
    assert limits.MAX_READ_BYTES < limits.MAX_EDIT_BYTES < limits.MAX_HASHED_BYTES
    assert limits.MAX_PATCH_FILES * 2 * 67 < limits.MAX_EVIDENCE_BYTES
    assert limits.MAX_EDIT_BYTES <= limits.MAX_PATCH_BYTES <= limits.MAX_TOOL_INPUT_BYTES
    assert limits.MAX_PATH_BYTES <= limits.MAX_SUBJECT_BYTES
