"""Command lines that are read twice, and compared with real bash."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kheishd.core.commands.line import MAX_GRAMMAR_CHARACTERS, read_line
from tests.support.bash import run_in_bash

PIECES = (
    *("aa", "bb", "cc ", " ", " ", "\n", "\t", ";", "&&", "||", "|", "&", "|&", "(", ")", "{ ", "; }", "! "),
    *(
        "'x y'",
        '"q\\""',
        "\\ ",
        "\\;",
        "2>/dev/null",
        ">&2",
        "A=1 ",
        "'",
        '"',
        "# c\n",
        "[ ",
        "]",
        "{}",
        "=",
        "-v",
    ),
    *(
        "é",
        "1",
        "2",
        ">",
        "<",
        " &>>/dev/null ",
        "\\",
        "%",
        "^",
        "@",
        "time ",
        "if ",
        "''",
        "echo ",
        "test ",
        "eval ",
    ),
    *(
        "export ",
        "declare ",
        "unset ",
        "A+=1 ",
        "x*",
        "x#y",
        "日",
        "1>&2",
        'b"c"d',
        "e'f'g",
        "--",
        ",",
        "~",
        "*",
    ),
)
LINES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map("".join)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(line=LINES)
def test_bash_runs_exactly_the_words_that_were_read(
    tmp_path_factory: pytest.TempPathFactory, line: str
) -> None:
    """What is understood, real bash runs as it was read: no other command, and no other word."""
    read = read_line(line)
    assume(read.problem is None)
    expected = sorted([word.value for word in command.words] for command in read.commands if command.words)
    # Bash looks up no command whose name is empty or a path.
    assume(all(words[0] and "/" not in words[0] for words in expected))
    directory = Path(str(tmp_path_factory.getbasetemp())) / "bash"
    directory.mkdir(exist_ok=True)
    ran = run_in_bash(line, directory)
    if "||" not in line and "!" not in line:
        assert ran == expected
    for words in (*ran, *run_in_bash(line, directory, status=1)):
        assert words in expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ls &&", "not understood: the grammar finds an error at column 6"),
        ("echo $x", "not understood: an expansion at column 6"),
        (
            "ls " + "x" * MAX_GRAMMAR_CHARACTERS,
            f"not understood: the line has more than {MAX_GRAMMAR_CHARACTERS} characters at column 4100",
        ),
    ],
)
def test_a_problem_has_its_column(line: str, problem: str) -> None:
    """Both readers say what they do not understand, and where."""
    assert read_line(line).problem == problem


@pytest.mark.parametrize(
    "line",
    [
        *("echo $(rm x)", "echo `rm x`", 'echo "$(rm x)"', 'echo "`rm x`"', "cat <(rm x)", "echo >(rm x)"),
        *("echo ${y:-$(rm x)}", "echo ${y:-`rm x`}", "echo $((`rm x`))", 'echo "`echo \\`rm x\\``"'),
        *("for f in a b; do rm x; done", "for ((;;)); do rm x; done", "while rm x; do :; done"),
        *("if a; then rm x; fi", "if A=1 rm x; then :; fi", "case a in a) rm x;; esac"),
        *("case $(rm x) in a) :;; esac", "select i in a; do rm x; done", "(( 1 )) && rm x"),
        *("f() { rm x; }; f", "f() (rm x)", "function f { rm x; }", "[[ $(rm x) ]]", "a=$(rm x)"),
        *("rm x > y", "rm > y x", "2>/dev/null rm x >y", "A=1 rm x >y", "> y A=1 rm x", "A=(1 2) rm x"),
        *("rm x <<A\nA", "rm <<A x\nA", "cat <<A\n$(rm x)\nA", "cat <<A\n`rm x`\nA", "rm <<< a x"),
        *(
            "$'rm' x",
            "$'\\x72\\155' x",
            '$"rm" x',
            "r\\\nm x",
            "rm\\\n x",
            "'rm' x >y",
            'r$y"m" x',
            "rm $y x",
            "$y rm x",
        ),
        *("if true; then A=1 2>&1 rm x",),
    ],
)
def test_commands_of_a_line_that_is_not_understood_are_found(line: str) -> None:
    """A deny matches the commands inside substitutions, loops and functions."""
    read = read_line(line)
    assert read.problem is not None
    assert ["rm", "x"] in [[word.value for word in command.words] for command in read.commands]


@pytest.mark.parametrize("line", ["echo 'a\\\nrm x' $y", "echo \\\\\nrm x $y"])
def test_a_backslash_does_not_hide_the_next_line(line: str) -> None:
    """A line break after two backslashes, or in quotes, joins no lines."""
    commands = [" ".join(word.value for word in command.words) for command in read_line(line).commands]
    assert any(command.startswith("rm x") for command in commands) == line.endswith("\\\\\nrm x $y")


def test_commands_of_a_very_long_line_are_found() -> None:
    """A line that is too long for the grammar is split at its operators."""
    line = "echo " + "x" * MAX_GRAMMAR_CHARACTERS + "; if true; then 'r'm x; fi"
    assert ["rm", "x"] in [[word.value for word in command.words] for command in read_line(line).commands]


def test_a_hostile_line_takes_little_time() -> None:
    """A line is read in bounded time, however it is nested; a long one only as text."""
    for piece in ("(", "$(", "`", "${", "<<A ", "((", "[[", "a|", '"$(', "if ", "{ ", "a;", "'"):
        line = (piece * 20_000)[:20_000]
        assert read_line(line).problem is not None
        assert len(read_line(line[:MAX_GRAMMAR_CHARACTERS]).commands) <= MAX_GRAMMAR_CHARACTERS
