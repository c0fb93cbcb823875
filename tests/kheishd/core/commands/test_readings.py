"""The texts that rules match, and the words that they must name."""

import subprocess
from itertools import product
from pathlib import Path

import pytest

from kheishd.core.commands.line import read_line
from kheishd.core.commands.readings import (
    OTHER_BUILTINS,
    SAFE_BUILTINS,
    Reading,
    aliases_of,
    join_words,
    readings_of,
)


def readings(line: str) -> list[Reading]:
    """Return the readings of a line of one command."""
    read = read_line(line)
    assert read.problem is None
    (command,) = read.commands
    return list(readings_of(command, line))


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("git   status", ["git status", "git   status"]),
        ("echo 'a b'  \"c\"", ["echo 'a b' c", "echo 'a b'  \"c\""]),
        ("timeout -k 5 10 nice -n 5 ls -l", ["timeout -k 5 10 nice -n 5 ls -l", "nice -n 5 ls -l", "ls -l"]),
        ("timeout -s KILL 5s ls", ["timeout -s KILL 5s ls", "ls"]),
        ("env LANG=C ls", ["env LANG=C ls", "ls"]),
        ("env FOO=1 ls", ["env FOO=1 ls", "FOO=1 ls"]),
        ("env -i ls", ["env -i ls"]),
        ("command -v ls", ["command -v ls"]),
        ("nohup ls", ["nohup ls", "ls"]),
        ("nohup", ["nohup"]),
        ("timeout a*b ls", ["timeout 'a*b' ls", "timeout a*b ls"]),
        ("LC_ALL=C ls", ["ls", "LC_ALL=C ls"]),
        ("FOO=1 ls", ["FOO=1 ls"]),
        ("LANG=C", []),
    ],
)
def test_a_command_has_texts(line: str, texts: list[str]) -> None:
    """Rules match canonical words, the command of a harmless wrapper, and the text as it was written."""
    assert list(dict.fromkeys(reading.text for reading in readings(line))) == texts


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ls -l", ""),
        ("python3.11 -c x", "python3.11"),
        ("/usr/bin/perl x", "/usr/bin/perl"),
        ("/lib64/ld-linux-x86-64.so.2 x", "/lib64/ld-linux-x86-64.so.2"),
        ("sudo ls", "sudo"),
        ("xargs rm", "xargs"),
        ("env -S 'a b'", "env -S"),
        ("find . -name x", ""),
        ("find . -name x -exec a {} +", "find . -name x -exec"),
        ("find . -delete", "find . -delete"),
        ("git status", ""),
        ("git log --oneline", ""),
        ("git -c core.pager=x log", "git -c core.pager=x"),
        ("git -C sub -c 'alias.y=!z' y", "git -C sub -c 'alias.y=!z' y"),
        ("git --git-dir x config y z", "git --git-dir x config"),
        ("git clone --u=x y", "git clone --u=x"),
        ("git fetch ext::sh", "git fetch ext::sh"),
        ("git rebase -xls", "git rebase -xls"),
        ("git clean -fdx", ""),
        ("git push -u origin", ""),
        ("git bisect run x", "git bisect"),
        ("git grep -Oless x", "git grep -Oless"),
        ("git commit -m 'a::b c'", "git commit -m 'a::b c'"),
        ("git commit -m 'use a::b'", ""),
        ("tar -xzf a", ""),
        ("tar --to-c=x -xf a", "tar --to-c=x"),
        ("tar xIf x a", "tar xIf"),
        ("rsync -avze x a b", "rsync -avze"),
        ("rg --pre x y", "rg --pre"),
        ("git merge-index ./x -a", "git merge-index"),
        ("git submodule--helper foreach x", "git submodule--helper"),
        ("git bisect--helper --bisect-run x", "git bisect--helper"),
        ("git difftool -x y", "git difftool"),
        ("git filter-branch x", "git filter-branch"),
        ("git for-each-repo x", "git for-each-repo"),
        ("git -C sub an-alias", "git -C sub an-alias"),
        ("git merge -s ../x y", "git merge -s"),
        ("git ls-remote --foo=ext::sh", "git ls-remote --foo=ext::sh"),
        ("git commit -s -m x", ""),
        ("git log --outp=x", "git log --outp=x"),
        ("x86_64-linux-gnu-gcc-12 -wrapper x", "x86_64-linux-gnu-gcc-12 -wrapper"),
        ("git --version", ""),
        ("install -s --strip-program=x y", "install -s --strip-program=x"),
        ("wget --use-askpass=x y", "wget --use-askpass=x"),
        ("wget -qe use_askpass=x y", "wget -qe"),
        ("wget -q y", ""),
        ("go vet -vettool=x", "go vet -vettool=x"),
        ("go test ./...", "go"),
        ("g++ -wrapper x y.c", "g++ -wrapper"),
        ("gcc-12 -Bx -DB y.c", "gcc-12 -Bx"),
        ("gcc -DB y.c", "gcc"),
        ("dc -e '!sh'", "dc"),
        ("sqlite3 x '.shell y'", "sqlite3"),
        ("prlimit x", "prlimit"),
        ("choom -n 0 x", "choom"),
        ("sg a x", "sg"),
        ("vimdiff -c x", "vimdiff"),
        ("FOO=1 ls", "FOO=1 ls"),
        ("command ls", "command"),
    ],
)
def test_a_rule_must_name_what_runs_another_program(line: str, named: str) -> None:
    """Programs that run others, and options that do, are part of what a rule must contain literally."""
    first = readings(line)[0]
    assert (first.named, first.problem) == (named, None)


@pytest.mark.parametrize(
    "line",
    [
        "printf -v x y",
        "printf -vx y",
        "printf '%s%n' x y",
        "printf a*b c",
        "test -v x",
        "[ -R x ]",
        "[ a -eq 1 ]",
        "test 1 -lt 'a[1]'",
        "wait -p x",
        "eval x",
        "source x",
        ". x",
        "exec x",
        "trap x EXIT",
        "read x",
        "export PATH=x",
        "declare x",
        "let x",
        "unset x",
        "mapfile -C x y",
        "hash -p x y",
        "compgen -F x",
        "enable -f x y",
        "builtin eval x",
        "PATH=x ls",
        "LD_PRELOAD=x ls",
        "BASH_ENV=x ls",
        "GIT_SSH_COMMAND=x git fetch",
        "IFS=x ls",
        "FOO=1",
        "git c*t x",
    ],
)
def test_some_commands_need_a_rule_without_a_star(line: str) -> None:
    """A builtin that evaluates its words and an assignment that changes the lookup need an exact rule."""
    assert all(reading.problem for reading in readings(line))


@pytest.mark.parametrize(
    "line", ["printf '%s' x", "test 1 -eq 2", "[ -f x ]", "[ a = b ]", "wait", "wait 5", "cd x", "true"]
)
def test_harmless_builtins_are_commands(line: str) -> None:
    """Builtins without an evaluation are matched like programs."""
    assert {reading.problem for reading in readings(line)} == {None}


def test_every_builtin_of_bash_is_known() -> None:
    """A builtin of this machine's bash is either safe or needs an exact rule."""
    done = subprocess.run(["/bin/bash", "-c", "compgen -b"], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) - SAFE_BUILTINS - OTHER_BUILTINS
    assert not SAFE_BUILTINS & OTHER_BUILTINS


@pytest.mark.parametrize(
    "line",
    [
        "/bin/rm -rf x",
        "sudo -u root rm -rf x",
        "env -i rm -rf x",
        "sh -c 'rm -rf x'",
        "bash -lc 'cd y && rm  -rf x'",
        "eval 'rm -rf x'",
        "find . -exec rm -rf x \\;",
        "xargs rm -rf x",
        "sh -c \"sh -c 'rm -rf x'\"",
        "timeout 5 nice /bin/rm -rf x",
    ],
)
def test_a_deny_matches_what_a_command_may_run(line: str) -> None:
    """The commands of wrappers and of scripts in an argument are known to denies."""
    (command,) = read_line(line).commands
    assert "rm -rf x" in aliases_of(command)


@pytest.mark.parametrize(
    ("line", "alias"),
    [
        ("git -C . push x", "git push x"),
        ("git --no-pager -c a=b --bare push x", "git push x"),
        ("sudo /usr/bin/git -C . push x", "git push x"),
        ("npm --prefix a publish", "npm publish"),
        ("make -C a -f b install", "make install"),
        ("cargo +nightly publish", "cargo publish"),
        ("docker -H a compose -f b down", "docker compose down"),
        ("kubectl -n a --context b delete c", "kubectl delete c"),
        ("coproc rm x; wait", "rm x"),
        ("time -p rm x $y", "rm x $y"),
        ("rm${IFS}x", "rm x"),
        ('rm "$@" x', "rm x"),
        ("bash -c 'git -C . push'", "git push"),
        ("xargs git -C . push x", "git push x"),
    ],
)
def test_a_deny_matches_without_the_options_before_an_operand(line: str, alias: str) -> None:
    """Global options stand before the subcommand, and any of them may have a value."""
    assert any(alias in aliases_of(command) for command in read_line(line).commands)


@pytest.mark.parametrize(
    "word", ["b c", "", "d'e", "$h", "*", "~", "#", "{a,b}", "é", "a!", "x=y", "!", "\\"]
)
def test_canonical_text_is_read_back(word: str) -> None:
    """The canonical text of words is a command line of the same words."""
    (command,) = read_line(join_words(["a", word, "{}"])).commands
    assert [read.value for read in command.words] == ["a", word, "{}"]


def test_no_builtin_that_a_star_allows_evaluates_its_words(tmp_path: Path) -> None:
    """Real bash runs builtins with a subscript that would create a file, wherever no exact rule is needed."""
    trap = "a[$(>trapped)]"
    options = ("", "-n", "-v", "-p", "-t", "-eq", "%d")
    lines = []
    # "kill" would send signals, and bash runs "exit" in a process of its own.
    for builtin, first, second in product(sorted(SAFE_BUILTINS - {"kill"}), options, options):
        for arguments in ([first, second, trap], [first, trap, second], [trap, first, second]):
            words = [builtin, *filter(None, arguments), *(["]"] if builtin == "[" else [])]
            read = read_line(line := join_words(words))
            if read.problem is None and readings_of(read.commands[0], line)[0].problem is None:
                lines.append(line)
    assert len(lines) > 1_000
    script = "\n".join(f"( {line} ) </dev/null >/dev/null 2>&1" for line in dict.fromkeys(lines))
    subprocess.run(["/bin/bash"], input=script, text=True, cwd=tmp_path, check=False, timeout=120)
    assert not (tmp_path / "trapped").exists()
    subprocess.run(["/bin/bash", "-c", f"test -v '{trap}'"], cwd=tmp_path, check=False)
    assert (tmp_path / "trapped").exists()
