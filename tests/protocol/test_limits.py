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
    parts = limits.INPUT_BYTES_MAX + limits.METADATA_BYTES_MAX + limits.AGENT_FILE_BYTES_MAX
    assert parts + RECORDS_BYTES <= limits.UPDATE_BYTES_MAX


def test_an_answer_fits_into_its_transaction() -> None:
    """So are an answer, a checkpoint and the records."""
    parts = limits.ANSWER_BYTES_MAX + limits.CHECKPOINT_BYTES_MAX
    assert parts + RECORDS_BYTES <= limits.UPDATE_BYTES_MAX


def test_a_batch_of_calls_fits_into_its_transactions() -> None:
    """Judging some calls, taking back what waits as the run ends, stopping what runs, saving a result."""
    open_calls = limits.CALLS_MAX * 190
    record = limits.SUBJECT_BYTES_MAX + limits.JUDGED_REASON_BYTES_MAX + limits.KIB
    verdict = limits.VERDICT_SUBJECT_BYTES_MAX + limits.JUDGED_REASON_BYTES_MAX + 600
    judged = limits.CALLS_JUDGED_MAX * (verdict + 2 * record) + limits.PREVIEWS_BYTES_MAX
    assert judged + open_calls <= limits.UPDATE_BYTES_MAX
    results = limits.CALLS_MAX * 450
    withdrawn = limits.ASKED_MAX * record + limits.QUESTIONED_MAX * limits.QUESTIONS_BYTES_MAX
    session = 40 * limits.KIB
    assert results + withdrawn + session + RECORDS_BYTES // 2 <= limits.UPDATE_BYTES_MAX
    stopped = limits.PARALLEL_CALLS_MAX * limits.LAST_WORDS_BYTES_MAX
    assert results + stopped + session + RECORDS_BYTES // 2 <= limits.UPDATE_BYTES_MAX
    assert 2 * limits.TOOL_TEXT_BYTES_MAX + open_calls + 64 * limits.KIB <= limits.UPDATE_BYTES_MAX
    assert limits.RESOLUTIONS_MAX >= limits.ASKED_MAX


def test_what_a_run_gives_fits_into_its_transactions() -> None:
    """An output and a plan beside the result of their call; a repair beside the answer that it is about."""
    open_calls, records = limits.CALLS_MAX * 190, 40 * limits.KIB + limits.KIB
    assert limits.OUTPUT_BYTES_MAX + open_calls + records <= limits.UPDATE_BYTES_MAX
    assert limits.PLAN_BYTES_MAX + limits.PLAN_SUMMARY_BYTES_MAX <= limits.OUTPUT_BYTES_MAX
    # Escaped, a schema is twice as long at most; what is wrong with an answer is a few sentences.
    assert 2 * limits.CONTRACT_BYTES_MAX <= limits.CONTRACT_ROOM_BYTES_MAX - 8 * limits.KIB
    assert limits.CONTRACT_ROOM_BYTES_MAX < limits.ANSWER_BYTES_MAX
    assert limits.TODOS_BYTES_MAX < limits.PLAN_BYTES_MAX
    assert limits.OUTPUTS_MAX * 10 < limits.KIB


def test_everything_fits_into_a_message() -> None:
    """What is accepted and what is listed fits into one line, escaped or not."""
    assert limits.PARAMS_BYTES_MAX < limits.LINE_BYTES_MAX
    assert (limits.INPUT_BYTES_MAX + limits.METADATA_BYTES_MAX) * 6 < limits.PARAMS_BYTES_MAX
    # What is imported holds its escapes already; a client may send the characters of two bytes as six.
    assert limits.IMPORT_LINE_BYTES_MAX * 3 < limits.PARAMS_BYTES_MAX
    assert limits.PAGE_BYTES_MAX + limits.UPDATE_BYTES_MAX < limits.LINE_BYTES_MAX


def test_names_fit_into_keys() -> None:
    """Two names and their ends are a key."""
    assert limits.AGENT_BYTES_MAX + limits.SENDER_BYTES_MAX + 2 <= LMDB_KEY_BYTES


def test_pages() -> None:
    """A page has a default below its most, and is found in what may be examined."""
    assert limits.PAGE_ROWS_DEFAULT <= limits.PAGE_ROWS_MAX <= limits.PAGE_EXAMINED_MAX


def test_what_a_connection_holds_is_bounded() -> None:
    """One connection cannot hold more than the daemon gives to all."""
    assert limits.OPEN_REQUESTS_MAX < limits.BATCH_MESSAGES_MAX
    assert limits.UNSENT_BYTES_MAX <= limits.LINE_BYTES_MAX
    assert limits.ID_BYTES_MAX * limits.OPEN_REQUESTS_MAX <= limits.UNSENT_BYTES_MAX


def test_nesting_leaves_room_on_the_stack() -> None:
    """What arrived can be decoded again from a stack several times as deep."""
    assert limits.NESTING_MAX * 4 <= 1000


def test_debug_captures() -> None:
    """A run holds several of the longest artifacts, all runs many of the fullest; a part fits a message."""
    assert limits.DEBUG_ARTIFACT_BYTES_MAX * 3 < limits.DEBUG_RUN_BYTES_MAX
    assert limits.DEBUG_RUN_BYTES_MAX * 16 < limits.DEBUG_BYTES_DEFAULT
    assert limits.DEBUG_TEXT_BYTES_DEFAULT <= limits.DEBUG_TEXT_BYTES_MAX
    assert limits.DEBUG_TEXT_BYTES_MAX * 6 < limits.LINE_BYTES_MAX


def test_file_tools() -> None:
    """What is read is less than what is edited, and that than what is hashed; a patch has its evidence."""
    assert limits.READ_BYTES_MAX < limits.EDIT_BYTES_MAX < limits.HASHED_BYTES_MAX
    assert limits.PATCH_FILES_MAX * 2 * 67 < limits.EVIDENCE_BYTES_MAX
    assert limits.EDIT_BYTES_MAX <= limits.PATCH_BYTES_MAX <= limits.TOOL_INPUT_BYTES_MAX
    assert limits.PATH_BYTES_MAX <= limits.SUBJECT_BYTES_MAX
