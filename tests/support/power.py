"""Power cuts: the writes of a real daemon are recorded, and the disk is rebuilt as a power cut may leave it.

``strace`` records every write, flush and change of a name in the home, and every answer to the client. A
disk after a power cut has all that was flushed. Of the rest, it has any part: a write may be missing while a
later one is there, a write may be torn at every 512 bytes, and of the changes of names in a directory only
the first ones may be there. LMDB's meta page of 120 bytes is in one sector, and is written with O_DSYNC.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kheishd.home import Home, Lock, prepare
from kheishd.records.doctor import examine_whole
from kheishd.records.rebuild import rebuild_some
from kheishd.store.writer import Store
from tests.support.victims import Script, Victim, strace

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

SECTOR = 512
CALLS = (
    "openat,write,pwrite64,writev,lseek,ftruncate,fallocate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,sendto,sendfile"
)
FLUSHES = ("fsync", "fdatasync")
NAMES = ("create", "mkdir", "rename", "unlink", "link")

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_DESCRIPTOR = re.compile(r"^(-?\d+|AT_FDCWD)(?:<([^>]*)>)?")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(slots=True)
class Operation:
    """One step: a write to a file, a change of a name, a flush, or an answer to the client."""

    kind: str
    path: str = ""
    target: str = ""
    offset: int = 0
    data: bytes = b""
    is_durable: bool = False
    file: int = 0


@dataclass(slots=True)
class Recording:
    """The steps of a daemon in a home, in order."""

    home: Path
    operations: list[Operation] = field(default_factory=list)

    def cuts(self) -> list[int]:
        """Return the numbers of steps after which the power may be cut: before and after each flush."""
        marks = {0, len(self.operations)}
        for number, operation in enumerate(self.operations):
            if operation.kind in (*FLUSHES, *NAMES) or operation.is_durable:
                marks |= {number, number + 1}
        return sorted(marks)

    def answers(self, cut: int) -> list[dict[str, Any]]:
        """Return the answers that the client had received before a power cut."""
        lines = b"".join(operation.data for operation in self.operations[:cut] if operation.kind == "answer")
        return [json.loads(line) for line in lines.split(b"\n") if line.startswith(b"{")]


def _decode(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode(errors="surrogateescape")


def _read_lines(trace: Path) -> Iterator[tuple[str, str, int]]:
    """Yield completed calls: name, arguments, result."""
    pending: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if match := _UNFINISHED.match(line):
            pending[match[1]] = match[3]
            continue
        if match := _RESUMED.match(line):
            line = f"{match[1]} {match[2]}({pending.pop(match[1], '')}{match[3]}"
        if match := _LINE.match(line):
            yield match[2], match[3], int(match[4])


class _Recorder:
    """Turns the calls of a trace into operations."""

    def __init__(self, home: Path) -> None:
        self.recording = Recording(home)
        self._prefix = str(home.parent) + "/"
        self._files: dict[str, int] = {}
        self._contents: dict[int, bytearray] = {}
        self._positions: dict[int, int] = {}
        self._synchronous: dict[int, bool] = {}
        self._appending: dict[int, bool] = {}
        self._next = 0

    def add(self, name: str, arguments: str, result: int) -> None:
        """Add one call."""
        if result < 0:
            return
        strings = [_decode(text) for text in _STRING.findall(arguments)]
        match = _DESCRIPTOR.match(arguments)
        number = int(match[1]) if match and match[1].lstrip("-").isdigit() else -1
        path = _decode(match[2]) if match and match[2] and match[2].startswith("\\x") else ""
        match name:
            case "openat":
                self._open(arguments, self._resolve(path, strings[0]), result)
            case "write" | "writev" | "pwrite64" if path.startswith(self._prefix):
                data = b"".join(
                    bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(arguments)
                )[:result]
                self._write(name, arguments, number, path, data)
            case "lseek" if path.startswith(self._prefix):
                self._positions[number] = result
            case "ftruncate" if path in self._files:
                self._truncate(path, int(arguments.rpartition(", ")[2]))
            case "fallocate" if "PUNCH_HOLE" in arguments:
                _, _, offset, size = arguments.rsplit(", ", 3)
                self._put(path, int(offset), bytes(int(size)))
            case "sendfile" if path in self._files:
                origin = _DESCRIPTOR.match(arguments.split(", ")[1])
                assert origin is not None
                self._send(path, number, self._files[_decode(origin[2])], result)
            case "fsync" | "fdatasync" if f"{path}/".startswith(self._prefix):
                self._append(Operation(name, path, file=self._files.get(path, 0)))
            case "mkdir" | "mkdirat":
                self._change("mkdir", self._resolve(path, strings[0]))
            case "unlink" | "unlinkat" | "rmdir":
                removed = self._resolve(path, strings[0])
                self._change("unlink", removed)
                # A later file of that name is another one.
                self._files.pop(removed, None)
            case "rename" | "renameat" | "renameat2":
                source, target = (self._resolve(path, string) for string in strings[:2])
                self._change("rename", source, target)
                for name in [name for name in self._files if name == source or name.startswith(source + "/")]:
                    self._files[target + name.removeprefix(source)] = self._files.pop(name)
            case "link" | "linkat":
                source, target = (self._resolve(path, string) for string in strings[:2])
                self._change("link", source, target)
                if source in self._files:
                    self._files[target] = self._files[source]
            case "sendto" if '"' in arguments and b"jsonrpc".hex() in arguments.replace("\\x", ""):
                self._append(Operation("answer", data=strings[0].encode(errors="surrogateescape")[:result]))
            case _:
                pass

    def _resolve(self, directory: str, path: str) -> str:
        return os.path.normpath(os.path.join(directory, path))

    def _append(self, operation: Operation) -> None:
        self.recording.operations.append(operation)

    def _change(self, kind: str, path: str, target: str = "") -> None:
        if path.startswith(self._prefix):
            self._append(Operation(kind, path, target))

    def _open(self, arguments: str, path: str, descriptor: int) -> None:
        if not path.startswith(self._prefix):
            return
        self._positions[descriptor] = 0
        self._synchronous[descriptor] = "O_DSYNC" in arguments or "O_SYNC" in arguments
        self._appending[descriptor] = "O_APPEND" in arguments
        if path not in self._files and "O_CREAT" in arguments:
            self._next += 1
            self._files[path] = self._next
            self._append(Operation("create", path, file=self._next))
        if "O_TRUNC" in arguments and path in self._files:
            self._truncate(path, 0)

    def _write(self, name: str, arguments: str, descriptor: int, path: str, data: bytes) -> None:
        if path not in self._files:
            return
        if name == "pwrite64":
            offset = int(arguments.rpartition(", ")[2])
        else:
            size = len(self._contents.get(self._files[path], b""))
            offset = size if self._appending.get(descriptor) else self._positions.get(descriptor, 0)
            self._positions[descriptor] = offset + len(data)
        self._put(path, offset, data, is_durable=self._synchronous.get(descriptor, False))

    def _send(self, path: str, descriptor: int, source: int, size: int) -> None:
        """Copy from a file that was recorded as well, from where the last copy ended."""
        offset = self._positions.get(descriptor, 0)
        self._positions[descriptor] = offset + size
        self._put(path, offset, bytes(self._contents[source][offset : offset + size]))

    def _put(self, path: str, offset: int, data: bytes, *, is_durable: bool = False) -> None:
        file = self._files[path]
        operation = Operation("write", path, offset=offset, data=data, is_durable=is_durable, file=file)
        _write_part(self._contents.setdefault(file, bytearray()), operation)
        self._append(operation)

    def _truncate(self, path: str, size: int) -> None:
        file = self._files[path]
        _resize(self._contents.setdefault(file, bytearray()), size)
        self._append(Operation("truncate", path, offset=size, file=file))


def _trace(trace: Path) -> tuple[str, ...]:
    return strace("-y", "-xx", "-s", "8388608", "-o", str(trace), "-e", f"trace={CALLS}")


def record(directory: Path) -> Recording:
    """Record the life of a home: the first start, some conversations, a backup, a stop, a second start.

    At last the store is compacted and restored from the backup. ``directory`` is new and contains all of it.
    """
    home, trace = directory / "home", directory.parent / f"{directory.name}.trace"
    directory.mkdir()
    recorder = _Recorder(home)

    def read() -> None:
        for name, arguments, result in _read_lines(trace):
            recorder.add(name, arguments, result)

    victim = Victim(home)
    script = Script(victim)
    for start in range(2):
        victim.start(*_trace(trace))
        try:
            for number in range(3):
                script.send(f"message {start} {number} " + "x" * (900 * number))
            script.call("session.create")
            script.send("from another", sender="bob")
            if start:
                script.call_again("daemon.backup", {"path": str(directory / "backup")})
            victim.stop()
        finally:
            victim.kill()
        read()
    for command in (["compact"], ["restore", str(directory / "backup")]):
        program = [sys.executable, "-m", "kheishd", "--home", str(home), *command]
        subprocess.run([*_trace(trace), *program], check=True, stdout=subprocess.DEVNULL)
        read()
    return recorder.recording


def build_image(
    recording: Recording, cut: int, directory: Path, chance: random.Random, *, lies: bool = False
) -> Path:
    """Build the home as a power cut after ``cut`` steps may leave it; return its path.

    With ``lies``, the disk ignores flushes: a check of the images must notice that.
    """
    operations = recording.operations[:cut]
    flushed = set() if lies else _find_flushed(operations)
    prefix = str(recording.home.parent)
    names: dict[str, int] = {}
    # Of the changes of names in a directory that were not flushed, the first ones are on the disk.
    remaining: dict[str, int] = {}
    for number, operation in enumerate(operations):
        if operation.kind in NAMES and number not in flushed:
            parent = os.path.dirname(operation.path)
            remaining[parent] = remaining.get(parent, 0) + 1
    remaining = {parent: chance.randint(0, count) for parent, count in remaining.items()}
    contents: dict[int, bytearray] = {}
    for number, operation in enumerate(operations):
        is_flushed = number in flushed or (operation.is_durable and not lies)
        if operation.kind in NAMES:
            parent = os.path.dirname(operation.path)
            if not is_flushed:
                if not remaining[parent]:
                    continue
                remaining[parent] -= 1
            _change_name(names, operation)
        elif operation.kind == "truncate":
            if is_flushed or chance.random() < 0.5:
                _resize(contents.setdefault(operation.file, bytearray()), operation.offset)
        elif operation.kind == "write":
            kept = 1.0 if is_flushed else chance.choice((0.0, 0.5, 1.0))
            _write_part(contents.setdefault(operation.file, bytearray()), operation, kept, chance)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for path, file in sorted(names.items()):
        place = directory / os.path.relpath(path, prefix)
        if not place.parent.is_dir():
            continue
        if file:
            place.write_bytes(contents.get(file, b""))
            place.chmod(0o600)
        else:
            place.mkdir(mode=0o700)
    return directory / recording.home.name


def _find_flushed(operations: list[Operation]) -> set[int]:
    """Return the numbers of the steps that a later flush has made durable."""
    flushed: set[int] = set()
    pending: dict[object, list[int]] = {}
    for number, operation in enumerate(operations):
        if operation.kind in NAMES:
            pending.setdefault(os.path.dirname(operation.path), []).append(number)
        elif operation.kind in ("write", "truncate"):
            pending.setdefault(operation.file, []).append(number)
        elif operation.kind in FLUSHES:
            flushed.update(pending.pop(operation.file or operation.path, ()))
    return flushed


def _change_name(names: dict[str, int], operation: Operation) -> None:
    match operation.kind:
        case "create":
            names[operation.path] = operation.file
        case "mkdir":
            names[operation.path] = 0
        case "unlink":
            for name in [
                name for name in names if name == operation.path or name.startswith(operation.path + "/")
            ]:
                del names[name]
        case "rename":
            below = operation.path + "/"
            for name in [name for name in names if name == operation.path or name.startswith(below)]:
                names[operation.target + name.removeprefix(operation.path)] = names.pop(name)
        case "link" if operation.path in names:
            names[operation.target] = names[operation.path]
        case _:
            pass


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _write_part(
    content: bytearray, operation: Operation, kept: float = 1.0, chance: random.Random | None = None
) -> None:
    """Write a share of the sectors of a write."""
    begin, data = operation.offset, operation.data
    position = 0
    while position < len(data):
        end = min(len(data), (begin + position) // SECTOR * SECTOR + SECTOR - begin)
        if kept == 1.0 or (chance is not None and chance.random() < kept):
            content.extend(bytes(max(begin + end - len(content), 0)))
            content[begin + position : begin + end] = data[position:end]
        position = end


def require_whole(home: Path, answers: list[dict[str, Any]]) -> None:
    """Require that a home opens, that everything in it verifies, and that everything acknowledged is there.

    Errors: AssertionError; those of opening.
    """
    place = Home(home)
    prepare(place)
    with Lock.take(place):
        store = Store.open(
            place.state, on_group=lambda group: None, threaded=False, version="test", rebuild=rebuild_some
        )
        try:
            assert store.damage is None, store.damage
            diagnosis = examine_whole(store.read, deep=True)
            assert diagnosis.findings == [], diagnosis.findings
            with store.read() as snapshot:
                lines = b"\n".join(
                    line
                    for cursor, stream in snapshot.feed()
                    for line in [snapshot.entry(stream, cursor)[1]]  # type: ignore[index]
                )
        finally:
            store.close()
    for answer in answers:
        result = answer.get("result", {})
        for name in ("run_id", "session_id"):
            if isinstance(result, dict) and isinstance(result.get(name), str):
                assert result[name].encode() in lines, f"the acknowledged {name} {result[name]} is lost"
