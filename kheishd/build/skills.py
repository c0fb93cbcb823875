"""Discover skills: directories with a ``SKILL.md`` below some roots, in the order of their precedence.

    configured roots -> the home's ``skills`` -> the user's ``.claude`` and ``.agents`` -> trusted workspace

The workspace is last: a file that an agent writes there takes the place of no skill of the operator.

Each root is scanned breadth first and within limits. Directories that begin with a dot are skipped, and
symbolic links to directories are not followed. A bad file is one warning, and of two skills with one name the
first counts.

A scan remembers the time of each directory that is no skill itself: a new or a removed skill changes it.
So one look at a collection of 2,000 skills takes one ``stat``, and nothing watches files in the background.
A file that was changed in place is read again when the skill is used, and by a reload.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import deque
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import trio

from kheishd.core.skill import RUNTIME_FILE, SKILL_FILE, ParsedSkill, SkillError, parse_skill
from kheishd.kernel.skills import Catalogue
from protocol.errors.skill import SkillUnusable
from protocol.limits.skill import (
    MAX_SKILL_DEPTH,
    MAX_SKILL_DIRECTORIES,
    MAX_SKILL_FILE_BYTES,
    MAX_SKILL_ROOTS,
    MAX_SKILL_YAML_BYTES,
)
from protocol.limits.units import MIB
from protocol.structs import Value
from protocol.text import escape_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kheishd.config.sections.skills import SkillsSection
    from kheishd.home import Home
    from protocol.objects.skill import Skill, SkillOrigin

log = logging.getLogger("kheishd.skills")

# All entries of a root's directories, and all bytes of its skills: a root that holds more is no collection.
MAX_SCAN_ENTRIES: Final = 50_000
MAX_SCAN_BYTES: Final = 64 * MIB

# The time for reading new and changed files in one scan of a root, in a thread and on the event loop; the
# next look reads the rest. A thousand skills of 2 KB take half a second.
MAX_READ_SECONDS: Final = 5.0
MAX_READ_SECONDS_AT_ONCE: Final = 0.2

# Roots whose skills are kept, most of them missing directories of workspaces.
MAX_SCANS: Final = 1_024

# Warnings of one catalogue; more of them help nobody.
MAX_SCAN_WARNINGS: Final = 100

WORKSPACE_ROOTS: Final = ("skills", ".claude/skills", ".agents/skills")
USER_ROOTS: Final = (".claude/skills", ".agents/skills")

# A file system's clock advances in steps of up to 10 ms.
CLOCK_TICK_NS: Final = 20_000_000

Signature = tuple[int, int, int, int]
"""The inode, size, change and modification time of a file: one that differs was changed."""


class SkillRoot(Value, frozen=True):
    """A directory of skills, as configured. A configured one must exist."""

    path: str
    origin: SkillOrigin


class _SkillFiles(Value, frozen=True):
    """A skill's files as they were read: the skill, or the problem."""

    signature: tuple[Signature | None, Signature | None]
    skill: Skill | None
    warnings: tuple[str, ...]
    size: int


class _RootSkills(Value, frozen=True):
    """The outcome of scanning a root. ``times`` are those of the directories that are no skills."""

    entries: tuple[tuple[str, _SkillFiles], ...]
    times: Mapping[str, int | None]
    warnings: tuple[str, ...] = ()


NOTHING: Final = _RootSkills((), {})
"""The skills of a root that has not been scanned."""


class SkillRegistry:
    """All scans of a daemon, by root; they survive reloads. Every method may be called from a thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._scanning: dict[SkillRoot, Lock] = {}
        self._scans: dict[SkillRoot, _RootSkills] = {}
        self._catalogues: dict[tuple[SkillRoot, ...], tuple[tuple[_RootSkills, ...], Catalogue]] = {}
        self._logged: set[str] = set()

    def catalogue(self, key: tuple[SkillRoot, ...]) -> Catalogue:
        """Return the skills of some roots, as far as they have been scanned."""
        scans = tuple(self._scans.get(root, NOTHING) for root in key)
        cached = self._catalogues.get(key)
        if cached is None or any(scan is not old for scan, old in zip(scans, cached[0], strict=True)):
            if len(self._catalogues) >= 64:
                # Workspaces come and go; catalogues are quickly made again.
                self._catalogues.clear()
            cached = self._catalogues[key] = scans, self._merge(key, scans)
        return cached[1]

    def find_unknown(self, roots: Sequence[SkillRoot]) -> list[SkillRoot]:
        """Return the roots that were never scanned."""
        return [root for root in roots if root not in self._scans]

    def find_changed(self, roots: Sequence[SkillRoot]) -> list[SkillRoot]:
        """Return the roots that were never scanned, or in which skills have been added or removed since."""
        return [
            root
            for root in roots
            if (scan := self._scans.get(root)) is None
            or any(_time_of(path) != changed_ns for path, changed_ns in scan.times.items())
        ]

    def scan_again(self, roots: Sequence[SkillRoot], *, at_once: bool = False) -> None:
        """Scan some roots again; files that have not changed are not read.

        ``at_once``: the event loop waits. It reads little, and leaves out roots that a thread scans now.
        """
        max_s = MAX_READ_SECONDS_AT_ONCE if at_once else MAX_READ_SECONDS
        for root in roots:
            scanning = self._scanning.setdefault(root, Lock())
            if not scanning.acquire(blocking=not at_once):
                continue
            try:
                old = self._scans.get(root, NOTHING)
                scan = _RootScan(root, dict(old.entries), max_s).run()
            finally:
                scanning.release()
            with self._lock:
                if scan != old:
                    self._scans[root] = scan
                if len(self._scans) > MAX_SCANS:
                    # Workspaces come and go; one that is used again is scanned again.
                    others = {root: scan for root, scan in self._scans.items() if root.origin != "workspace"}
                    self._scans, self._scanning = others | {root: scan}, {}

    def _merge(self, roots: Sequence[SkillRoot], scans: Sequence[_RootSkills]) -> Catalogue:
        """Return the skills of all scans; the first of a name counts. Log each warning once."""
        skills: dict[str, Skill] = {}
        warnings: list[str] = []
        for root, scan in zip(roots, scans, strict=True):
            if root.origin == "config" and scan.times.get(root.path, 0) is None:
                warnings.append(
                    f"the skill root {root.path} does not exist; create it, or remove it from skills.roots"
                )
            warnings += scan.warnings
            for path, entry in scan.entries:
                warnings += entry.warnings
                if entry.skill is None:
                    continue
                first = skills.setdefault(entry.skill.name, entry.skill)
                if first.path != entry.skill.path:
                    warnings.append(f"{path}:1: there is a skill '{first.name}' already, in {first.path}")
        if len(warnings) > MAX_SCAN_WARNINGS:
            warnings[MAX_SCAN_WARNINGS:] = [
                f"and {len(warnings) - MAX_SCAN_WARNINGS} more warnings about skills"
            ]
        shown = tuple(escape_line(warning) for warning in warnings)
        for warning in shown:
            if warning not in self._logged and len(self._logged) < 10 * MAX_SCAN_WARNINGS:
                self._logged.add(warning)
                log.warning("a skill: %s", warning)
        return Catalogue(dict(sorted(skills.items())), shown)


class ConfiguredSkills:
    """The skills of one configuration (``kernel.skills.Skills``).

    ``in_threads`` is False in tests on a mock clock, which does not wait for threads.
    """

    def __init__(
        self,
        registry: SkillRegistry,
        section: SkillsSection,
        home: Home,
        *,
        user: Path | None = None,
        in_threads: bool = True,
    ) -> None:
        self._registry = registry
        self._in_threads = in_threads
        configured = [str(home.resolve(path)) for path in section.roots]
        own = [str(home.path / "skills")]
        user_roots = [str(user / path) for path in USER_ROOTS] if section.user and user is not None else []
        self._daemon = [
            *_canonical(configured, "config"),
            *_canonical(own, "home"),
            *_canonical(user_roots, "user"),
        ]
        self._without_workspace: tuple[SkillRoot, ...] = ()
        self._without_workspace = self._roots(())

    def _roots(self, workspaces: Sequence[str]) -> tuple[SkillRoot, ...]:
        """Return all roots, each once, in the order of their precedence."""
        if not workspaces and self._without_workspace:
            return self._without_workspace
        own = (
            SkillRoot(f"{workspace}/{name}", "workspace")
            for workspace in workspaces[:MAX_SKILL_ROOTS]
            for name in WORKSPACE_ROOTS
        )
        roots: dict[str, SkillRoot] = {}
        for root in (*self._daemon, *own):
            roots.setdefault(root.path, root)
        return tuple(roots.values())

    @property
    def warnings(self) -> Sequence[str]:
        """The problems of the daemon's skills that the last scan found; none before the first one."""
        return self._registry.catalogue(self._roots(())).warnings

    @property
    def scanned(self) -> Mapping[str, Skill] | None:
        """The daemon's skills that the last scan found, by name; None before the first one."""
        roots = self._roots(())
        return None if self._registry.find_unknown(roots) else self._registry.catalogue(roots).skills

    def catalogue(self, workspaces: Sequence[str] = (), *, fresh: bool = False) -> Catalogue:
        """Return the skills of the last scan; scan roots that never were, or look for changes first."""
        roots = self._roots(workspaces)
        scanned = self._registry.find_changed(roots) if fresh else self._registry.find_unknown(roots)
        if scanned:
            self._registry.scan_again(scanned, at_once=self._in_threads)
        return self._registry.catalogue(roots)

    def reload(self) -> Catalogue:
        """Read everything again that has changed; return the daemon's skills."""
        roots = self._roots(())
        self._registry.scan_again(roots)
        return self._registry.catalogue(roots)

    async def refresh(self, workspaces: Sequence[str] = ()) -> None:
        """Find new and removed skills, in a thread if there are any."""
        changed = self._registry.find_changed(self._roots(workspaces))
        if changed and self._in_threads:
            await trio.to_thread.run_sync(self._registry.scan_again, changed)
        elif changed:
            self._registry.scan_again(changed)

    def read(self, skill: Skill) -> ParsedSkill:
        """Return the current text of a skill. Errors: SkillUnusable."""
        path = Path(skill.path)
        try:
            content, _ = _read(path, MAX_SKILL_FILE_BYTES, follow=skill.origin != "workspace")
            runtime, _ = _read_runtime(path, follow=skill.origin != "workspace")
            parsed = parse_skill(
                content, runtime, path=skill.path, default_name=skill.name, origin=skill.origin
            )
        except SkillError as error:
            line, problem = error.problems[0]
            raise SkillUnusable(f"{path.parent / error.file}:{line}: {problem}") from None
        if parsed.skill.name != skill.name:
            raise SkillUnusable(f"{path}:1: the skill is called '{parsed.skill.name}' now")
        return parsed


def _canonical(paths: Sequence[str], origin: SkillOrigin) -> list[SkillRoot]:
    return [SkillRoot(os.path.realpath(path), origin) for path in paths]


class _RootScan:
    """One scan of one root. ``known`` are the entries of the scan before; unchanged files are not read.

    ``max_s`` is the time for reading files.
    """

    def __init__(self, root: SkillRoot, known: Mapping[str, _SkillFiles], max_s: float) -> None:
        self._remaining_s = max_s
        self._root = root
        self._known = known
        self._entries: list[tuple[str, _SkillFiles]] = []
        self._times: dict[str, int | None] = {}
        self._warnings: list[str] = []
        self._bytes = 0

    def run(self) -> _RootSkills:
        """Return the outcome."""
        root = self._root.path
        queue, directories, count = deque([(root, 0)]), 0, 0
        if self._root.origin == "workspace" and os.path.realpath(root) != root:
            # The time 0 is that of no directory: the link is looked at again, as it may become one.
            return _RootSkills((), {root: 0}, (f"{root}: a symbolic link is not followed in a workspace",))
        cut: list[str] = []
        while queue:
            path, depth = queue.popleft()
            # Before its entries: an entry that is made meanwhile is then noticed by the next look.
            changed_ns = _time_of(path)
            try:
                found = [] if changed_ns is None else islice(os.scandir(path), MAX_SCAN_ENTRIES + 1)
                entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                self._warnings.append(f"{path}:1: {error.strerror}")
                entries = []
            count += len(entries)
            if count > MAX_SCAN_ENTRIES:
                self._warnings.append(
                    f"{root}: more than {MAX_SCAN_ENTRIES} files; the rest was not searched"
                )
                break
            is_skill = any(entry.name == SKILL_FILE for entry in entries)
            if is_skill and not self._add(path):
                break
            if is_skill and depth:
                continue
            if changed_ns is not None and time.time_ns() - changed_ns < CLOCK_TICK_NS:
                # Another change at the same time of the file system's clock would not be noticed.
                changed_ns = 0
            self._times[path] = changed_ns
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                    continue
                if depth == MAX_SKILL_DEPTH:
                    break
                if directories == MAX_SKILL_DIRECTORIES:
                    cut = [f"{root}: only the first {directories} directories were searched"]
                    break
                directories += 1
                queue.append((entry.path, depth + 1))
        if self._remaining_s <= 0:
            # The time 0 is that of no directory: the next look reads the rest.
            self._times[root] = 0
            cut.append(f"{root}: reading its skills takes long; the next look at it reads the rest")
        return _RootSkills(tuple(self._entries), self._times, (*self._warnings, *cut))

    def _add(self, directory: str) -> bool:
        """Read a skill unless its files are unchanged; return whether the scan may go on."""
        path = Path(directory, SKILL_FILE)
        signature = _signature_of(path), _signature_of(path.parent / RUNTIME_FILE)
        entry = self._known.get(str(path))
        if entry is None or entry.signature != signature:
            if self._remaining_s <= 0:
                return True
            began = time.perf_counter()
            entry = self._read(path, signature)
            self._remaining_s -= time.perf_counter() - began
        self._bytes += entry.size
        if self._bytes > MAX_SCAN_BYTES:
            self._warnings.append(
                f"{self._root.path}: more than {MAX_SCAN_BYTES} bytes; the rest was not read"
            )
            return False
        self._entries.append((str(path), entry))
        return True

    def _read(self, path: Path, signature: tuple[Signature | None, Signature | None]) -> _SkillFiles:
        relative = os.path.relpath(path.parent, self._root.path)
        name = path.parent.name if relative == "." else relative.replace("/", ":")
        follow = self._root.origin != "workspace"
        size = 0
        try:
            if not str(path).isprintable():
                raise SkillError([(1, "the path has unprintable characters")])
            content, size = _read(path, MAX_SKILL_FILE_BYTES, follow=follow)
            runtime, runtime_size = _read_runtime(path, follow=follow)
            size += runtime_size
            parsed = parse_skill(
                content, runtime, path=str(path), default_name=name, origin=self._root.origin
            )
        except SkillError as error:
            line, problem = error.problems[0]
            more = f" (and {len(error.problems) - 1} more problems)" if len(error.problems) > 1 else ""
            return _SkillFiles(
                signature, None, (f"{path.parent / error.file}:{line}: {problem}{more}",), size
            )
        oddities = parsed.oddities
        warnings = (
            (f"{path}:{oddities[0][0]}: {'; '.join(text for _, text in oddities)}",) if oddities else ()
        )
        return _SkillFiles(signature, parsed.skill, warnings, size)


def _read(path: Path, max_bytes: int, *, follow: bool) -> tuple[bytes, int]:
    """Return a file's content, one byte more than the limit if it is longer, and its size.

    Errors: SkillError.
    """
    flags = os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    file = path.name if path.name == SKILL_FILE else RUNTIME_FILE
    try:
        # Opening a pipe would otherwise wait for a writer.
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SkillError([(1, "not a regular file")], file)
            content = stream.read(max_bytes + 1)
    except OSError as error:
        problem = (
            "a symbolic link, which is not followed in a workspace" if path.is_symlink() else error.strerror
        )
        raise SkillError([(1, problem or "cannot be read")], file) from None
    return content, len(content)


def _read_runtime(path: Path, *, follow: bool) -> tuple[bytes | None, int]:
    """Return the runtime metadata beside a ``SKILL.md``; None without any. Errors: SkillError."""
    file = path.parent / RUNTIME_FILE
    return _read(file, MAX_SKILL_YAML_BYTES, follow=follow) if os.path.lexists(file) else (None, 0)


def _time_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _signature_of(path: Path) -> Signature | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns, status.st_mtime_ns
