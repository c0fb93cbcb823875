"""The lexer of command lines: what it reads, and what it rejects with a reason and a column."""

import pytest

from kheishd.core.commands.lexer import MAX_COMMANDS, MAX_LINE_CHARACTERS, NotUnderstood, read_commands


def words(line: str) -> list[list[str]]:
    """Return the words of the commands of a line, with the assignments in front."""
    return [
        [word.value for word in (*command.assignments, *command.words)] for command in read_commands(line)
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("git  status\t-s", [["git", "status", "-s"]]),
        ("a 'b c' \"d e\" f\\ g", [["a", "b c", "d e", "f g"]]),
        ("a''b \"\" '$x `y`'", [["ab", "", "$x `y`"]]),
        ('echo "a \\"b\\" \\$c \\d"', [["echo", 'a "b" $c \\d']]),
        ("a && b || c; d & e\nf | g |& h", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"], ["g"], ["h"]]),
        ("(a; b) | { c; } && ! d", [["a"], ["b"], ["c"], ["d"]]),
        ("A=1 B='x y' c", [["A=1", "B=x y", "c"]]),
        ("a 2>/dev/null 3 >&2 2>&1 <&- &> /dev/null b", [["a", "3", "b"]]),
        ("a # b; c\nd#e", [["a"], ["d#e"]]),
        ("find . -exec cat {} \\;", [["find", ".", "-exec", "cat", "{}", ";"]]),
        ("[ ! -f x ] && test ! y", [["[", "!", "-f", "x", "]"], ["test", "!", "y"]]),
        ("git show HEAD~2 HEAD^ a=b --c=d", [["git", "show", "HEAD~2", "HEAD^", "a=b", "--c=d"]]),
        ("ls src/*.py a?", [["ls", "src/*.py", "a?"]]),
        ("grep Ärger 日本", [["grep", "Ärger", "日本"]]),
    ],
)
def test_words_are_read_as_bash_reads_them(line: str, expected: list[list[str]]) -> None:
    """Quotes are removed, and operators separate commands."""
    assert words(line) == expected


@pytest.mark.parametrize(
    ("line", "reason", "column"),
    [
        ("echo $x", "an expansion", 6),
        ("echo ${x}", "an expansion", 6),
        ("echo $(x)", "an expansion", 6),
        ('echo "a $x"', "an expansion", 9),
        ("echo `x`", "an expansion", 6),
        ("echo $'x'", "an expansion", 6),
        ('echo $"x"', "an expansion", 6),
        ("echo $((1))", "an expansion", 6),
        ("cat <(x)", "a redirection to a file", 5),
        ("echo > x", "a redirection to a file", 6),
        ("echo >/dev/nullx", "a redirection to a file", 6),
        ("echo >>x", "a redirection to a file", 6),
        ("cat < x", "a redirection to a file", 5),
        ("cat <<A\nx\nA", "a here-document", 5),
        ("cat <<<x", "a here-document", 5),
        ("ls *", "a pattern that may become an option", 4),
        ("ls [ab]", "a pattern that may become an option", 4),
        ("ls -*", "a pattern that may become an option", 4),
        ("l? x", "a command whose name is a pattern or a job", 1),
        ("%1", "a command whose name is a pattern or a job", 1),
        ("ls ~", "the home directory of a user", 4),
        ("ls ~root", "the home directory of a user", 4),
        ("A=~ x", "the home directory of a user", 3),
        ("echo {a,b}", "a brace", 6),
        ("echo {1..3}", "a brace", 6),
        ("echo a!b", "a reference to the history", 7),
        ("if a; then b; fi", "the keyword 'if'", 1),
        ("while a; do b; done", "the keyword 'while'", 1),
        ("time ls", "the keyword 'time'", 1),
        ("[[ -v x ]]", "a pattern that may become an option", 1),
        ("coproc a", "the keyword 'coproc'", 1),
        ("f() { a; }", "a function or an array", 2),
        ("function f { a; }", "the keyword 'function'", 1),
        ("a=(b)", "a function or an array", 3),
        ("A[0]=x b", "an assignment to an element, or to the end of a variable", 1),
        ("A+=x b", "an assignment to an element, or to the end of a variable", 1),
        ("(a", "a group without an end", 3),
        ("a)", "')' without a beginning", 2),
        ("(a) b", "a word after a group", 5),
        (">/dev/null", "a redirection without a command", 11),
        ("a \\\n b", "a line that continues", 3),
        ("a;;", "an operator of 'case'", 2),
        ("echo 'x", "a quote without an end", 6),
        ("a\rb", "the character U+000D", 2),
        ("a\0b", "the character U+0000", 2),
        ("cat notes\u3164", "the character U+3164", 10),
        ("cat \u202ex", "the character U+202E", 5),
        ("cat a\u00a0b", "the character U+00A0", 6),
        ("cat \ud800", "the character U+D800", 5),
        ("x" * (MAX_LINE_CHARACTERS + 1), f"the line has more than {MAX_LINE_CHARACTERS} characters", 8193),
        ("a;" * (MAX_COMMANDS + 1), f"more than {MAX_COMMANDS} commands", 2 * MAX_COMMANDS + 2),
    ],
)
def test_everything_else_is_rejected_with_its_column(line: str, reason: str, column: int) -> None:
    """An expansion, a keyword, a redirection to a file and an invisible character are not understood."""
    with pytest.raises(NotUnderstood) as rejected:
        read_commands(line)
    assert (rejected.value.reason, rejected.value.column) == (reason, column)
