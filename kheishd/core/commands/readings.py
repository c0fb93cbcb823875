"""The texts of a simple command that rules match, and the rules that cannot speak for it. Pure.

A rule with a ``*`` allows words that its author did not write. For most programs this is the point; some
words make a program run another one, and the rule must *name* these: they must be part of its text before the
first ``*``. So ``find *`` does not allow ``find -exec``, and ``*`` does not allow ``python``. Builtins of the
shell that evaluate their arguments, or change the commands after them, need a rule without a ``*``.
"""

from __future__ import annotations

import re
import shlex
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

from kheishd.core.commands.line import read_line
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kheishd.core.commands.lexer import SimpleCommand

SAFE_BUILTINS: Final = frozenset(
    ": [ bg break cd continue dirs echo exit false fg jobs kill popd printf pushd pwd return test times"
    " true type ulimit umask wait".split()
)
"""Builtins that run nothing else and change no variable, except for some options of a few."""
OTHER_BUILTINS: Final = frozenset(
    ". alias bind builtin caller command compgen complete compopt declare disown enable eval exec"
    " export fc getopts hash help history let local logout mapfile read readarray readonly set shift"
    " shopt source suspend trap typeset unalias unset".split()
)

PROGRAM_RUNNERS: Final = frozenset(
    "sh bash dash ash zsh ksh mksh fish csh tcsh rbash busybox toybox python pypy perl ruby irb node"
    " nodejs deno bun lua luajit php Rscript R julia tclsh wish expect guile racket sbcl ghci swipl awk"
    " gawk mawk nawk sed gsed ed ex vi vim nvim view emacs nano xargs parallel sudo doas su runuser"
    " setpriv chroot unshare nsenter bwrap firejail ssh scp sftp rsh env time watch entr script"
    " scriptreplay strace ltrace gdb lldb perf valgrind systemd-run at batch crontab flock setsid"
    " setarch linux32 linux64 stdbuf ionice taskset numactl chrt nice nohup timeout start-stop-daemon"
    " run-parts ld.so ld-linux.so ssh-agent dbus-run-session screen tmux rlwrap unbuffer socat ncat nc"
    " netcat docker podman kubectl osascript pwsh cmd make gmake ninja npx pnpx uvx pipx fakeroot"
    " faketime dpkg-reconfigure m4 gcc cc clang"
    # Other wrappers.
    " prlimit choom sg newgrp pkexec run0 gosu su-exec capsh cpulimit softlimit setlock logsave"
    " multitime pexec torify torsocks proxychains proxychains4 eatmydata chpst daemonize dumb-init tini"
    " chronic ifne mispipe pee hyperfine watchexec nodemon direnv nix nix-shell guix flatpak snap"
    " machinectl systemd-nspawn apptainer singularity podman-compose docker-compose lxc lxc-attach"
    " vagrant ansible salt tsp sem toybox service ssh-copy-id sshpass sshfs autossh mosh rlogin uv"
    " poetry pipenv conda mamba bundle bundler bunx corepack npm yarn pnpm cargo genie dbus-launch xvfb-"
    " run x11vnc xdotool run-mailcap task tasksh"
    # Other interpreters and editors, and programs with a command that runs another one.
    " yash elvish nu rc es posh sash slsh dc sqlite3 psql mysql mariadb gnuplot octave jjs jrunscript"
    " jshell java scala groovy kotlin erl elixir iex ocaml rview rvim rvi vimdiff nvimdiff gview gvim"
    " joe pico mg view ispell w3m lynx mutt mail mailx ftp tnftp lftp ncftp telnet psftp smbclient tex"
    " latex pdftex pdflatex luatex lualatex xetex xelatex latexmk dvips troff groff nroff enscript pic"
    " eqn gs gimp blender puppet facter knife msfconsole pry byebug cpan go rake gem pip tsx ts-node c++"
    " g++ clang++ cpp c89 c99 gfortran ghc rustc distcc ccache gradle mvn ant sbt cmake ctest meson"
    " openvpn nginx logrotate certbot ip bpftrace cowsay cowthink busctl virsh tmate byobu".split()
)
"""Programs that run programs or scripts: a rule must name them."""
_VERSION: Final = re.compile(r"-?[\d.]+$")
_TARGET: Final = re.compile(r"\w+-(?:\w+-)?(?:linux|w64|apple|none|unknown)-\w+-")
_LOADER: Final = re.compile(r"ld-[\w.-]*\.so[\d.]*|ld[\d.-]*so[\d.]*")

_FIND_ACTIONS: Final = (
    *("-exec", "-execdir", "-ok", "-okdir", "-delete"),
    *("-fprint", "-fprint0", "-fprintf", "-fls"),
)
_GIT_COMMANDS: Final = frozenset(
    " add am annotate apply archive blame branch bundle cat-file check-attr check-ignore check-mailmap"
    " check-ref-format checkout checkout-index cherry cherry-pick clean clone column commit commit-graph"
    " commit-tree count-objects describe diff diff-files diff-index diff-pairs diff-tree fast-export fetch"
    " fetch-pack fmt-merge-msg for-each-ref format-patch fsck gc get-tar-commit-id grep hash-object help"
    " index-pack init interpret-trailers log ls-files ls-remote ls-tree mailinfo mailsplit merge merge-base"
    " merge-file merge-tree mktag mktree multi-pack-index mv name-rev notes pack-objects pack-redundant"
    " pack-refs patch-id prune prune-packed pull push range-diff read-tree rebase reflog refs remote repack"
    " replace request-pull rerere reset restore rev-list rev-parse revert rm send-pack shortlog show"
    " show-branch show-index show-ref sparse-checkout stage stash status stripspace switch symbolic-ref tag"
    " unpack-file unpack-objects update-index update-ref update-server-info var verify-commit verify-pack"
    " verify-tag version whatchanged worktree write-tree".split()
)
"""Subcommands that run no program that their line names, except by an option: any other must be named."""
_GIT_OPTIONS: Final = (
    *("--exec-path", "--config-env", "--git-dir", "--work-tree", "--upload-pack", "--receive-pack", "--exec"),
    *(
        "--open-files-in-pager",
        "--extcmd",
        "--ext-diff",
        "--template",
        "--config",
        "--textconv",
        "--strategy",
        "--output",
    ),
)
_GIT_VALUED: Final = frozenset(
    ("-C", "-c", "--namespace", "--git-dir", "--work-tree", "--config-env", "--attr-source", "--super-prefix")
)
_GIT_REMOTE_HELPER: Final = re.compile(r"(--[\w-]+=)?[\w+.-]+::")
# Short options, with what follows them in one word, by subcommand.
_GIT_SHORT: Final = {"rebase": "xs", "grep": "O", "clone": "uc", "merge": "s", "pull": "s"}

_COMPILER_OPTIONS: Final = (("-wrapper", "-specs", "--specs", "-fplugin", "-fpass-plugin", "-load"), "B")
# Options of other programs that run a program: long ones, and letters of short ones.
_OPTIONS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "tar": (
        (
            *("--to-command", "--checkpoint-action", "--use-compress-program", "--rsh-command"),
            *("--info-script", "--new-volume-script", "--rmt-command"),
        ),
        "IF",
    ),
    "rsync": (("--rsh", "--rsync-path"), "e"),
    "sort": (("--compress-program",), ""),
    "split": (("--filter",), ""),
    "zip": (("--unzip-command",), "T"),
    "man": (("--pager", "--html", "--preprocessor"), "PHp"),
    "rg": (("--pre", "--hostname-bin"), ""),
    "fd": (("--exec", "--exec-batch"), "xX"),
    "fdfind": (("--exec", "--exec-batch"), "xX"),
    "ag": (("--pager",), ""),
    "cpio": (("--rsh-command",), ""),
    "hg": (("--config", "--debugger"), ""),
    "tcpdump": (("--postrotate-command",), "z"),
    "install": (("--strip-program",), ""),
    "wget": (("--use-askpass", "--execute", "--config"), "e"),
    "go": (("-vettool", "-toolexec", "-exec", "--vettool", "--toolexec", "--exec"), ""),
    "ssh-keygen": ((), "Dw"),
    "ssh-add": ((), "sS"),
    "nmap": (("--script",), ""),
    "aria2c": (
        (
            *("--on-bt-download-complete", "--on-download-complete", "--on-download-error"),
            *("--on-download-pause", "--on-download-start", "--on-download-stop", "--conf-path"),
        ),
        "",
    ),
    "pandoc": (("--filter", "--lua-filter", "--pdf-engine", "--defaults"), "FLd"),
    "exiftool": (("-if", "-config", "-p", "-execute"), ""),
    "apt": (("--option", "--config-file"), "oc"),
    "apt-get": (("--option", "--config-file"), "oc"),
    "openssl": (("-engine", "-provider", "-provider-path"), ""),
    "scrot": (("--exec",), "e"),
    "pidstat": ((), "e"),
    "dpkg": (("--pre-invoke", "--post-invoke", "--unpack", "--install", "--configure"), "i"),
    "rustc": (("-C", "--codegen"), ""),
    "cargo": (("--config",), ""),
    "svn": (("--diff-cmd", "--diff3-cmd", "--editor-cmd", "--config-option"), ""),
    "ld": (("-plugin", "--plugin"), ""),
    "ctags": (("--options",), ""),
    **dict.fromkeys("gcc g++ cc c++ cpp clang clang++ gfortran".split(), _COMPILER_OPTIONS),
}

_LOOKUP: Final = re.compile(
    r"PATH|LD_\w*|DYLD_\w*|BASH_\w*|ENV|IFS|GIT_\w*|SHELLOPTS|BASHOPTS|PS4|PROMPT_COMMAND|CDPATH|GLOBIGNORE"
    r"|HOME|SHELL|EXECIGNORE|FPATH|GCONV_PATH|LOCPATH|NLSPATH|MALLOC_\w*|GLIBC_\w*"
)
_HARMLESS: Final = re.compile(
    r"(LANG|LC_[A-Z]+|TERM|NO_COLOR|FORCE_COLOR|CLICOLOR|CI|COLUMNS|LINES)=[\w.@:+-]*|TZ=[A-Z]\w*(/[A-Z]\w+)?"
)

_NUMBER: Final = re.compile(r"[+-]?\d+")
_COUNT: Final = re.compile(r"%[^A-Za-z%]*[hlLjzt]*n")
_COMPARISONS: Final = frozenset(("-eq", "-ne", "-lt", "-le", "-gt", "-ge"))

_MAX_ALIASES: Final = 512
_MAX_WRAPPER_WORDS: Final = 32
_MAX_DEPTH: Final = 3


class Reading(Value, frozen=True):
    """A text of a command that an allow may match.

    ``named`` is the beginning that the rule must contain literally. ``problem`` is why no rule with a ``*``
    holds.
    """

    text: str
    named: str = ""
    problem: str | None = None


def join_words(words: Sequence[str]) -> str:
    """Return the canonical text of words: joined by blanks, and quoted where needed."""
    return " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    # shlex also quotes words that need no quotes for bash, such as "@{u}", "a^b" or those beyond ASCII.
    if word and re.fullmatch(r"[^\s'\"\\$`;&|()<>*?\[\]{}!#~\0]+|\[|\]|\{\}|!", word):
        return word
    return shlex.quote(word)


def readings_of(command: SimpleCommand, line: str) -> tuple[Reading, ...]:
    """Return the texts of a command that an allow may match, from the outermost wrapper inwards.

    None for a command of nothing but harmless assignments.
    """
    assignments = [word.value for word in command.assignments]
    values = [word.value for word in command.words]
    globs = [word.is_glob for word in command.words]
    readings: list[Reading] = []
    prefix, problem = _judge_assignments(assignments)
    if not values and not prefix:
        return ()
    while True:
        count, own_problem = _find_named(values, globs)
        shown = [*_join_assignments(prefix), *map(_quote, values)]
        named = " ".join(shown[: len(prefix) + max(count, 1 if prefix else 0)]) if prefix or count else ""
        readings.append(Reading(" ".join(shown), named, problem or own_problem))
        inner = look_through(values, globs)
        if inner is None:
            break
        more, start = inner
        added, added_problem = _judge_assignments(more)
        prefix, problem = [*prefix, *added], problem or added_problem
        values, globs = values[start:], globs[start:]
    first = readings[0]
    everything = [*command.assignments, *command.words]
    raw = line[everything[0].start : everything[-1].end]
    if assignments and not prefix:
        full = " ".join([*_join_assignments(assignments), *map(_quote, (w.value for w in command.words))])
        readings.append(Reading(full, "", first.problem))
    if raw != first.text:
        # Rules from before lines were read match the text as it was written.
        count, _ = _find_named([word.value for word in command.words], [w.is_glob for w in command.words])
        named_end = command.words[max(count, 1) - 1].end if command.words else everything[-1].end
        named = line[everything[0].start : named_end] if count or first.named else ""
        readings.append(Reading(raw, named, first.problem))
    return tuple(readings)


def aliases_of(command: SimpleCommand, depth: int = 0) -> tuple[str, ...]:
    """Return more texts that only a deny or an ask matches: the commands that this one may run."""
    values = [word.value for word in command.words]
    return tuple(dict.fromkeys(islice(_find_aliases(values, depth), _MAX_ALIASES))) if values else ()


def _find_aliases(values: list[str], depth: int) -> Iterator[str]:
    program = _program(values[0])
    runs = program in PROGRAM_RUNNERS or program in OTHER_BUILTINS or program == "coproc"
    commands = [values]
    if runs:
        commands += [values[start:] for start in range(1, min(len(values), _MAX_WRAPPER_WORDS))]
    elif program == "find":
        actions = [values[index + 1 :] for index, value in enumerate(values) if value in _FIND_ACTIONS]
        commands += [list(takewhile(lambda word: word not in (";", "+"), words)) for words in actions]
    for words in filter(None, commands):
        named = [_program(words[0]), *words[1:]]
        yield join_words(words)
        yield join_words(named)
        for spelling in (words, named, *_drop_options(named)):
            yield " ".join(spelling)
    if depth < _MAX_DEPTH and runs:
        for value in values[1:]:
            if " " in value or "\n" in value:
                for command in read_line(value).commands:
                    yield from aliases_of(command, depth + 1)


def _drop_options(values: list[str]) -> Iterator[list[str]]:
    """Yield a command without the options before its first operand, and before its second."""
    for first in _pass_options(values, 1):
        yield [values[0], *values[first:]]
        for second in _pass_options(values, first + 1):
            yield [values[0], values[first], *values[second:]]


def _pass_options(values: list[str], start: int) -> list[int]:
    """Return the positions of what may be the operand at or after a position: any option may have a value."""
    reached = {start}
    for position in range(start, min(len(values), start + _MAX_WRAPPER_WORDS)):
        if position in reached and values[position].startswith(("-", "+")):
            reached.remove(position)
            reached |= {position + 1, position + 2}
    return sorted(position for position in reached if position < len(values))


def _program(word: str) -> str:
    """Return the name of a program, without its directory."""
    return word.rstrip("/").rpartition("/")[2] or word


def _join_assignments(assignments: Sequence[str]) -> list[str]:
    return [
        f"{name}={_quote(value) if value else ''}"
        for name, _, value in (a.partition("=") for a in assignments)
    ]


def _judge_assignments(assignments: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the assignments that a rule must name, and the problem of one that changes what is run."""
    named: list[str] = []
    problem = None
    for assignment in assignments:
        name = assignment.partition("=")[0]
        if _LOOKUP.fullmatch(name):
            problem = problem or f"the assignment of {name} may change which program runs"
            named.append(assignment)
        elif not _HARMLESS.fullmatch(assignment):
            named.append(assignment)
    return named, problem


# The words that a rule must name.


def _find_named(values: list[str], globs: list[bool]) -> tuple[int, str | None]:
    """Return how many first words a rule must name, and why no rule with a ``*`` holds, or None."""
    if not values:
        return 0, "the assignment changes the commands after it"
    program = _program(values[0])
    if values[0] in SAFE_BUILTINS or values[0] in OTHER_BUILTINS:
        return int(values[0] == "command"), find_builtin_problem(values, globs)
    if program == "find":
        return _last(values, lambda word: word in _FIND_ACTIONS), None
    if program == "git":
        return find_git_named(values, globs)
    unversioned = _VERSION.sub("", _TARGET.sub("", program))
    runs = bool({program, unversioned} & PROGRAM_RUNNERS or _LOADER.fullmatch(program))
    if options := _OPTIONS.get(program, _OPTIONS.get(unversioned)):
        long, short = options
        # The options of tar may begin without a dash.
        if program == "tar" and values[1:] and not values[1].startswith("-"):
            values = [program, f"-{values[1]}", *values[2:]]
        return max(int(runs), _last(values, lambda word: _is_option(word, long, short))), None
    if program == "env" and any(word.startswith(("-S", "--split")) for word in values[1:]):
        return 2, None
    return int(runs), None


def _last(values: list[str], is_named: Callable[[str], bool]) -> int:
    """Return the number of words up to the last one that a rule must name."""
    return max((index + 1 for index, word in enumerate(values) if index and is_named(word)), default=0)


def _is_option(word: str, long: Sequence[str], short: str) -> bool:
    """Whether a word is one of some options: a long one, perhaps abbreviated, or a short one in a cluster."""
    if word.startswith("--"):
        name = word.partition("=")[0]
        return len(name) > 2 and any(option.startswith(name) for option in long)
    if not word.startswith("-"):
        return False
    # Programs whose long options begin with one dash have no clusters.
    has_clusters = all(option.startswith("--") for option in long)
    letters = word[1:] if has_clusters else word[1:2]
    return word.partition("=")[0] in long or any(letter in letters for letter in short)


def find_git_named(values: list[str], globs: list[bool]) -> tuple[int, str | None]:
    """Return how many words of a git command a rule must name, and why no rule with a ``*`` holds."""
    position = 1
    while position < len(values) and values[position].startswith("-"):
        position += 2 if values[position] in _GIT_VALUED else 1
    subcommand = values[position] if position < len(values) else ""
    if any(globs[: position + 1]):
        return 0, "the subcommand of git is a pattern"
    short = _GIT_SHORT.get(subcommand, "")

    def is_named(word: str) -> bool:
        return _GIT_REMOTE_HELPER.match(word) is not None or _is_option(word, _GIT_OPTIONS, short)

    count = _last(values, is_named)
    if "-c" in values[1:position]:
        count = max(count, len(values[:position]) - values[1:position][::-1].index("-c") + 1)
    if subcommand and subcommand not in _GIT_COMMANDS:
        count = max(count, position + 1)
    return min(count, len(values)), None


def find_builtin_problem(values: list[str], globs: list[bool]) -> str | None:
    """Return why a rule with a ``*`` does not speak for a builtin, such as one that evaluates its words."""
    name, words = values[0], values[1:]
    if name in OTHER_BUILTINS:
        if name == "command" and (len(words) < 2 or words[0] in ("-v", "-V") or not words[0].startswith("-")):
            return None
        return f"the builtin {name} evaluates its words, or changes the commands after it"
    if name == "printf":
        if words and words[0].startswith("-v"):
            return "printf -v evaluates its variable"
        template = words[1:2] if words[:1] == ["--"] else words[:1]
        if any(_COUNT.search(text) for text in template) or any(globs[1:3]):
            return "printf %n sets a variable"
    elif name in ("test", "["):
        if any(word in ("-v", "-R") for word in words):
            return f"{name} -v evaluates its variable"
        for index, word in enumerate(words):
            if word in _COMPARISONS and not all(
                _NUMBER.fullmatch(operand)
                for operand in (*words[max(index - 1, 0) : index], *words[index + 1 : index + 2])
            ):
                return f"{name} {word} compares words that are no numbers"
    elif name == "wait" and not all(_NUMBER.fullmatch(word) or word in ("-n", "-f") for word in words):
        return "wait -p evaluates its variable"
    return None


# Wrappers.


def look_through(values: list[str], globs: list[bool]) -> tuple[list[str], int] | None:
    """Return the assignments of a harmless wrapper and the position of its command; None if it is none."""
    if not values:
        return None
    name, position = values[0], 1
    assignments: list[str] = []
    with_value, without_value, operands = _WRAPPERS.get(name, ((), (), -1))
    if operands < 0:
        return None
    while position < len(values) and values[position].startswith("-") and values[position] != "-":
        word = values[position]
        position += 1
        if word == "--":
            break
        if word in with_value:
            position += 1
        elif word not in without_value and not any(
            word.startswith(f"{option}=") if option.startswith("--") else word[:2] == option
            for option in with_value
        ):
            if not (name == "nice" and _NUMBER.fullmatch(word)):
                return None
    if name == "env":
        while position < len(values) and "=" in values[position]:
            assignments.append(values[position])
            position += 1
    position += operands
    if position >= len(values) or any(globs[: position + 1]):
        return None
    return assignments, position


_WRAPPERS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...], int]]] = {
    "env": ((), (), 0),
    "nice": (("-n", "--adjustment"), (), 0),
    "nohup": ((), (), 0),
    "timeout": (
        ("-k", "--kill-after", "-s", "--signal"),
        ("--foreground", "--preserve-status", "-v", "--verbose"),
        1,
    ),
    "command": ((), ("-p",), 0),
    "stdbuf": (("-i", "-o", "-e", "--input", "--output", "--error"), (), 0),
    "setsid": ((), ("-w", "--wait", "-f", "--fork", "-c", "--ctty"), 0),
    "ionice": (("-c", "--class", "-n", "--classdata"), ("-t", "--ignore"), 0),
}
"""Harmless wrappers by name: their options with and without a value, and the operands before the command."""
