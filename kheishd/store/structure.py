"""A check of all pages of a data file, without LMDB: each is used or free, and LMDB can read each safely.

It reads every page of every tree once: page numbers, bounds of nodes, order of keys, counts; then the lists
of free pages. Each page must be used once or free once. One wrong number in a list of free pages would let
LMDB overwrite a page in use; a damaged page would end the process that reads it. The check runs in a child
process (``checkup.py``), which may die of a failing disk without the daemon. It imports little, to start
quickly.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from functools import cache

from kheishd.store.pages import (
    BIG_VALUE,
    BRANCH,
    LEAF,
    MAX_DEPTH,
    METAS,
    NO_PAGE,
    NODE_HEADER,
    OVERFLOW,
    OVERFLOW_HEADER,
    PAGE_HEADER,
    SUB_TREE,
    TREE,
    MetaPage,
    Tree,
    newest,
    parse_meta,
    read_metas,
)

MAX_PROBLEMS = 50
USED, FREE = 1, 2


@cache
def _offsets(count: int) -> struct.Struct:
    return struct.Struct(f"={count}H")


class _TooMany(Exception):
    """There are more problems than anyone reads."""


class Structure:
    """The check of one file as of one meta page; ``problems`` are sentences."""

    def __init__(self, content: mmap.mmap | bytes, meta: MetaPage, *, quick: bool = False) -> None:
        self.problems: list[str] = []
        self.quick = quick
        self._content = content
        self._meta = meta
        self._size = meta.page_bytes
        self._in_file = len(content) // meta.page_bytes
        self._state = bytearray(meta.pages)
        self._state[:METAS] = bytes((USED,)) * METAS

    def check(self) -> list[str]:
        """Check everything; return the problems."""
        try:
            self._check_all()
        except _TooMany:
            self.problems.append("... and more")
        return self.problems

    def _check_all(self) -> None:
        lists: list[tuple[int, bytes]] = []
        tables: list[tuple[str, Tree]] = []
        self._check_tree("the list of free pages", self._meta.free, free=lists)
        self._check_tree("the list of tables", self._meta.main, tables=tables)
        for name, tree in tables:
            self._check_tree(f"the table '{name}'", tree)
        complete = not self.problems
        for transaction, numbers in lists:
            self._check_free(transaction, numbers)
        lost = self._state.count(0)
        # After other damage, pages are missing because of that.
        if lost and complete:
            first = self._state.index(0)
            self._note(f"{lost} pages, the first is {first}, are neither in use nor listed as free")

    def _note(self, problem: str) -> None:
        self.problems.append(problem)
        if len(self.problems) >= MAX_PROBLEMS:
            raise _TooMany

    def _claim(self, name: str, number: int, pages: int = 1) -> bool:
        """Mark pages as used; return whether they exist and were not used before."""
        end = number + pages
        if not METAS <= number < end <= self._meta.pages:
            self._note(f"{name} names page {number}, which is outside of the store")
        elif end > self._in_file:
            self._note(f"{name} needs page {end - 1}, which is missing: the file is cut short")
        elif self._state.count(0, number, end) != pages:
            self._note(f"page {number} is in use twice, once in {name}")
        else:
            self._state[number:end] = bytes((USED,)) * pages
            return True
        return False

    def _check_tree(
        self,
        name: str,
        tree: Tree,
        *,
        free: list[tuple[int, bytes]] | None = None,
        tables: list[tuple[str, Tree]] | None = None,
    ) -> None:
        """Check a tree level by level. Append free pages to ``free``, records of tables to ``tables``."""
        numbers = (tree.depth, tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries)
        if tree.root == NO_PAGE:
            if any(numbers):
                self._note(f"{name} has no pages, but counts some")
            return
        if not 1 <= tree.depth <= MAX_DEPTH:
            self._note(f"{name} has an impossible depth of {tree.depth}")
            return
        before = len(self.problems)
        level = [(tree.root, b"")]
        branches = 0
        for _ in range(tree.depth - 1):
            branches += len(level)
            level = self._check_branches(name, level, is_free=free is not None)
        leaves = len(level)
        entries, overflow = _Leaves(self, name, level, free, tables, has_big=tree.overflow_pages > 0).check()
        counts = (tree.depth, branches, leaves, overflow, entries)
        if len(self.problems) == before and counts != numbers:
            self._note(
                f"{name} counts {numbers} (depth, branches, leaves, overflow pages, entries), has {counts}"
            )

    def _header(self, name: str, number: int, kind: int) -> tuple[int, int] | None:
        """Claim a page of a tree and check its header; return the number of its nodes and their begin."""
        if not self._claim(name, number):
            return None
        stored, _, flags, lower, upper = PAGE_HEADER.unpack_from(self._content, number * self._size)
        if stored != number or flags != kind:
            self._note(f"page {number} is not a page of {name}")
        elif not PAGE_HEADER.size < lower <= upper <= self._size or lower % 2:
            self._note(f"page {number}, of {name}, has impossible bounds")
        else:
            return (lower - PAGE_HEADER.size) // 2, upper
        return None

    def _check_branches(
        self, name: str, level: list[tuple[int, bytes]], *, is_free: bool
    ) -> list[tuple[int, bytes]]:
        """Check the branch pages of a level; return their children, each with the least key in it."""
        content, size = self._content, self._size
        children: list[tuple[int, bytes]] = []
        previous: object = None
        for number, least in level:
            header = self._header(name, number, BRANCH)
            if header is None:
                continue
            count, upper = header
            base, room = number * size, 0
            for index, offset in enumerate(_offsets(count).unpack_from(content, base + PAGE_HEADER.size)):
                begin = base + offset + NODE_HEADER.size
                if not upper <= offset <= size - NODE_HEADER.size:
                    self._note(f"page {number}, of {name}, has an entry outside of it")
                    break
                low, high, top, key_size = NODE_HEADER.unpack_from(content, base + offset)
                room += NODE_HEADER.size + key_size + (key_size & 1)
                key = content[begin : begin + key_size] if index else least
                order = key if not is_free else int.from_bytes(key, sys.byteorder)
                if offset + NODE_HEADER.size + key_size > size or (
                    previous is not None and index and order <= previous  # type: ignore[operator]
                ):
                    self._note(f"page {number}, of {name}, has keys that are not in order")
                    break
                previous = order
                children.append((low | high << 16 | top << 32, key))
            else:
                if room != size - upper:
                    self._note(f"page {number}, of {name}, has gaps between its entries")
        return children

    def _check_free(self, transaction: int, numbers: bytes) -> None:
        """Check one list of free pages: its count, then the pages, each smaller than the one before."""
        pages = struct.unpack(f"={len(numbers) // 8}Q", numbers[: len(numbers) // 8 * 8])
        if len(numbers) % 8 or not pages or pages[0] != len(pages) - 1:
            self._note(f"the list of free pages of transaction {transaction} has a wrong length")
            return
        if not 1 <= transaction <= self._meta.transaction:
            self._note(f"the list of free pages has one of transaction {transaction}, which has not been")
        state, end, previous = self._state, self._meta.pages, self._meta.pages
        for page in pages[1:]:
            if not METAS <= page < end:
                self._note(f"the list of free pages names page {page}, which is outside of the store")
            elif state[page]:
                use = "in use" if state[page] == USED else "there already"
                self._note(f"the list of free pages names page {page}, which is {use}")
            else:
                state[page] = FREE
            if page >= previous:
                self._note(f"the list of free pages of transaction {transaction} is not in order")
            previous = page


class _Leaves:
    """The check of the leaves of one tree: each node is inside its page, and the keys ascend."""

    def __init__(
        self,
        structure: Structure,
        name: str,
        level: list[tuple[int, bytes]],
        free: list[tuple[int, bytes]] | None,
        tables: list[tuple[str, Tree]] | None,
        has_big: bool,
    ) -> None:
        self._has_big = has_big
        self._structure = structure
        self._name = name
        self._level = level
        self._free = free
        self._tables = tables
        self._overflow = 0

    def check(self) -> tuple[int, int]:
        """Check all leaves; return the numbers of entries and of overflow pages."""
        structure, name, is_free = self._structure, self._name, self._free is not None
        content, size = structure._content, structure._size
        unpack, head = NODE_HEADER.unpack_from, NODE_HEADER.size
        last = size - head
        # Values of these two trees are read, and all others have no flags unless they are big.
        plain = self._free is None and self._tables is None
        quick = plain and structure.quick
        entries = 0
        previous: bytes | int = -1 if is_free else b""
        for number, least in self._level:
            header = structure._header(name, number, LEAF)
            if header is None:
                continue
            count, upper = header
            room = 0
            page = content[number * size : (number + 1) * size]
            if quick:
                entries += count
                if self._has_big:
                    self._check_quickly(number, page, count, upper)
                continue
            least_order = int.from_bytes(least, sys.byteorder) if is_free else least
            if least and previous >= least_order:  # type: ignore[operator]
                structure._note(f"page {number}, of {name}, begins below the keys before it")
            for offset in _offsets(count).unpack_from(page, PAGE_HEADER.size):
                if not upper <= offset <= last:
                    structure._note(f"page {number}, of {name}, has an entry outside of it")
                    break
                low, high, flags, key_size = unpack(page, offset)
                begin = offset + head
                value_size = low | high << 16 if not flags & BIG_VALUE else 8
                used = head + key_size + value_size
                room += used + (used & 1)
                if offset + used > size:
                    structure._note(f"page {number}, of {name}, has an entry that ends outside of it")
                    break
                key = page[begin : begin + key_size]
                order = int.from_bytes(key, sys.byteorder) if is_free else key
                if order <= previous or order < least_order:  # type: ignore[operator]
                    structure._note(f"page {number}, of {name}, has keys that are not in order")
                    break
                previous = order
                if flags or not plain:
                    self._check_value(number, flags, low | high << 16, key, number * size + begin + key_size)
            else:
                if room != size - upper:
                    structure._note(f"page {number}, of {name}, has gaps between its entries")
            entries += count
        return entries, self._overflow

    def _check_quickly(self, number: int, page: bytes, count: int, upper: int) -> None:
        """Check that each node is inside its page, and find the big values."""
        unpack, last = NODE_HEADER.unpack_from, len(page) - NODE_HEADER.size
        for offset in _offsets(count).unpack_from(page, PAGE_HEADER.size):
            if not upper <= offset <= last:
                self._structure._note(f"page {number}, of {self._name}, has an entry outside of it")
                return
            low, high, flags, key_size = unpack(page, offset)
            if flags:
                begin = number * len(page) + offset + NODE_HEADER.size + key_size
                self._check_value(number, flags, low | high << 16, b"", begin)
            elif offset + low + key_size > last or high:
                self._structure._note(f"page {number}, of {self._name}, has an entry that ends outside of it")

    def _check_value(self, number: int, flags: int, size: int, key: bytes, begin: int) -> None:
        """Check the value of a node that is big, a table's record or a list of free pages."""
        structure, name = self._structure, self._name
        content = structure._content
        if flags & ~(BIG_VALUE if self._tables is None else SUB_TREE):
            structure._note(f"page {number}, of {name}, has an entry of an unknown kind")
            return
        if flags & BIG_VALUE:
            start = int.from_bytes(content[begin : begin + 8], sys.byteorder)
            pages = -(-(PAGE_HEADER.size + size) // structure._size)
            # The pages of a value that was replaced by a shorter one are kept.
            if METAS <= start < min(structure._meta.pages, structure._in_file):
                stored, _, kind, count = OVERFLOW_HEADER.unpack_from(content, start * structure._size)
                if stored != start or kind != OVERFLOW or count < pages:
                    structure._note(f"page {start} is not the value that page {number}, of {name}, names")
                    return
                pages = count
            if not structure._claim(name, start, pages):
                return
            self._overflow += pages
            begin = start * structure._size + PAGE_HEADER.size
        if self._free is not None:
            if len(key) != 8:
                structure._note(f"page {number}, of {name}, has a key that is no transaction")
                return
            self._free.append((int.from_bytes(key, sys.byteorder), content[begin : begin + size]))
        elif self._tables is not None:
            if flags != SUB_TREE or size != TREE.size:
                structure._note(f"page {number}, of {name}, has an entry that is no table")
                return
            tree = Tree._make(TREE.unpack_from(content, begin))
            if tree.flags or tree.padding:
                structure._note(f"the table '{key.decode(errors='replace')}' is of an unknown kind")
            else:
                self._tables.append((key.decode(errors="replace"), tree))


def check_structure(
    path: str, meta_page: bytes | None = None, *, quick: bool = False, is_mapped: bool = True
) -> list[str]:
    """Check a data file, as of its newest meta page or of a copy of an older one; return the problems.

    ``quick`` skips the order of keys, and the nodes of tables without big values. A file that is not mapped
    is read into memory: a part that cannot be read is then an error, and does not end the process.
    Errors: OSError, MemoryError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first, second = read_metas(descriptor)
        problems = [
            f"meta page {number} is damaged" for number, meta in enumerate((first, second)) if meta is None
        ]
        if first and second:
            if first.transaction % 2 or (second.transaction and second.transaction % 2 == 0):
                problems.append("the meta pages name impossible transactions")
        meta = newest(first, second) if meta_page is None else parse_meta(meta_page)
        if meta is None:
            return problems
        if problems and meta_page is not None:
            return problems
        size = os.fstat(descriptor).st_size
        # A damaged number must not take all memory; pages at the end that were never written may be missing.
        if meta.pages > 2 * (size // meta.page_bytes) + (1 << 20):
            return [*problems, f"the newest meta page counts {meta.pages} pages, in a file of {size:,} bytes"]
        if not is_mapped:
            with open(descriptor, "rb", closefd=False) as file:
                file.seek(0)
                return problems + Structure(file.read(), meta, quick=quick).check()
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as content:
            return problems + Structure(content, meta, quick=quick).check()
    finally:
        os.close(descriptor)


def find_problems(
    path: str, meta_page: bytes | None = None, *, quick: bool = False, is_mapped: bool = True
) -> list[str]:
    """Check a data file as :func:`check_structure` does; return a failure of the check as a problem."""
    try:
        return check_structure(path, meta_page, quick=quick, is_mapped=is_mapped)
    except Exception as error:
        # A disk that cannot be read, or damage that the check itself does not expect.
        return [f"the check failed: {type(error).__name__}: {error}"]


def main(arguments: list[str]) -> None:
    """Check a file; print the problems as JSON.

    Arguments: the path, "quick" or "all", perhaps a meta page in hex.
    """
    path, extent, *meta = arguments
    page = bytes.fromhex(meta[0]) if meta else None
    print(json.dumps(find_problems(path, page, quick=extent == "quick")))
