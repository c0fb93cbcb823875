"""LMDB's file format, and a reader of it that no damage can crash.

LMDB maps its file and trusts it: a damaged page can end the process by SIGBUS or SIGABRT. This reader copies
each page with ``pread`` and checks every offset before it follows it, so that damage is an exception. The
daemon reads a damaged store with it. Only the features that kheish uses are read: format 1, plain tables.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

MAGIC = 0xBEEFC0DE
FORMAT = 1
NO_PAGE = 2**64 - 1
MAX_DEPTH = 32
METAS = 2

BRANCH, LEAF, OVERFLOW, META_FLAG = 0x01, 0x02, 0x04, 0x08
"""Flags of a page."""
BIG_VALUE, SUB_TREE = 0x01, 0x02
"""Flags of a node in a leaf: its value has pages of its own; it is the record of a table."""

PAGE_HEADER = struct.Struct("=QHHHH")
"""Number, padding, flags, end of the offsets, begin of the nodes."""
NODE_HEADER = struct.Struct("=HHHH")
"""Low and high half of the size of the value, flags, size of the key."""
OVERFLOW_HEADER = struct.Struct("=QHHI")
"""Number, padding, flags, number of pages."""
TREE = struct.Struct("=IHHQQQQQ")
"""Padding, flags, depth, branch pages, leaf pages, overflow pages, entries, root."""
_META = struct.Struct("=IIQQ")
_TAIL = struct.Struct("=QQ")
META_BYTES = PAGE_HEADER.size + _META.size + 2 * TREE.size + _TAIL.size


class PageDamaged(Exception):
    """A page does not contain what it must; the message names it."""


class Tree(NamedTuple):
    """The record of one B-tree."""

    padding: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class MetaPage(NamedTuple):
    """A meta page: the size of the file, its newest transaction, the trees of free pages and of tables."""

    page_bytes: int
    pages: int
    transaction: int
    free: Tree
    main: Tree


def parse_meta(page: bytes) -> MetaPage | None:
    """Return the content of a meta page; None if it is not one."""
    if len(page) < META_BYTES:
        return None
    flags = PAGE_HEADER.unpack_from(page)[2]
    magic, version, _, _ = _META.unpack_from(page, PAGE_HEADER.size)
    trees = PAGE_HEADER.size + _META.size
    free, main = (Tree._make(TREE.unpack_from(page, trees + index * TREE.size)) for index in range(2))
    last_page, transaction = _TAIL.unpack_from(page, trees + 2 * TREE.size)
    # The size of a page is stored in the padding of the first tree.
    size = free.padding
    is_sound = (
        flags == META_FLAG
        and magic == MAGIC
        and version == FORMAT
        and 256 <= size <= 1 << 15
        and size & (size - 1) == 0
        and METAS - 1 <= last_page < 1 << 47
    )
    return MetaPage(size, last_page + 1, transaction, free, main) if is_sound else None


def read_metas(descriptor: int) -> tuple[MetaPage | None, MetaPage | None]:
    """Return both meta pages of a file; None for a damaged one. Without the first, the second is sought."""
    first = parse_meta(os.pread(descriptor, META_BYTES, 0))
    sizes = [first.page_bytes] if first else [1 << bits for bits in range(12, 16)]
    for size in sizes:
        second = parse_meta(os.pread(descriptor, META_BYTES, size))
        if second is not None and second.page_bytes == size:
            return first, second
    return first, None


def newest(first: MetaPage | None, second: MetaPage | None) -> MetaPage | None:
    """Return the meta page of the newest transaction; None if neither is sound."""
    metas = [meta for meta in (first, second) if meta is not None]
    return max(metas, key=lambda meta: meta.transaction, default=None)


class _Page:
    """A page of a tree, checked as far as it is used."""

    __slots__ = ("_content", "is_leaf", "number", "offsets")

    def __init__(self, content: bytes, number: int) -> None:
        stored, _, flags, lower, upper = PAGE_HEADER.unpack_from(content)
        if stored != number or flags not in (BRANCH, LEAF):
            raise PageDamaged(f"page {number} is not a page of a table")
        if not PAGE_HEADER.size <= lower <= upper <= len(content) or lower % 2:
            raise PageDamaged(f"page {number} has impossible bounds")
        self.number = number
        self.is_leaf = flags == LEAF
        self._content = content
        count = (lower - PAGE_HEADER.size) // 2
        self.offsets = struct.unpack_from(f"={count}H", content, PAGE_HEADER.size)
        if not count or not all(
            upper <= offset <= len(content) - NODE_HEADER.size for offset in self.offsets
        ):
            raise PageDamaged(f"page {self.number} has no entries or one outside of it")

    def key(self, index: int) -> bytes:
        """Return the key of an entry; that of a branch's first entry is empty."""
        offset = self.offsets[index] + NODE_HEADER.size
        size = NODE_HEADER.unpack_from(self._content, self.offsets[index])[3]
        return self._slice(offset, size)

    def child(self, index: int) -> int:
        """Return the page that an entry of a branch leads to."""
        low, high, top, _ = NODE_HEADER.unpack_from(self._content, self.offsets[index])
        return int(low | high << 16 | top << 32)

    def value(self, index: int) -> tuple[int, int, bytes]:
        """Return the flags of an entry of a leaf, the size of its value, and the bytes in the page."""
        low, high, flags, key_size = NODE_HEADER.unpack_from(self._content, self.offsets[index])
        size = low | high << 16
        begin = self.offsets[index] + NODE_HEADER.size + key_size
        return flags, size, self._slice(begin, 8 if flags & BIG_VALUE else size)

    def seek(self, key: bytes, *, or_before: bool) -> int:
        """Return the first entry whose key is not less than ``key``; ``or_before``: the last not greater."""
        low, high = 1 if or_before else 0, len(self.offsets)
        while low < high:
            middle = (low + high) // 2
            current = self.key(middle)
            if current < key or (or_before and current == key):
                low = middle + 1
            else:
                high = middle
        return low - 1 if or_before else low

    def _slice(self, begin: int, size: int) -> bytes:
        if begin + size > len(self._content):
            raise PageDamaged(f"page {self.number} has an entry that ends outside of it")
        return self._content[begin : begin + size]


class PageFile:
    """A reader of a data file as of one of its meta pages. It has the methods of LMDB that kheish reads with.

    The file must not change while it is read.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            meta = newest(*read_metas(self._descriptor))
            if meta is None:
                raise PageDamaged(f"neither meta page of {path} is sound")
            self.meta = meta
            self._tables = dict(self._read_tables())
        except BaseException:
            os.close(self._descriptor)
            raise

    def tables(self) -> list[bytes]:
        """Return the names of the tables."""
        return list(self._tables)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def info(self) -> dict[str, int]:
        """Return the size of the map, which is the size of the file."""
        return {"map_size": os.fstat(self._descriptor).st_size}

    def begin(self) -> PageTransaction:
        """Return a transaction that reads."""
        return PageTransaction(self)

    def tree(self, table: bytes) -> Tree:
        """Return the record of a table."""
        return self._tables[table]

    def page(self, number: int) -> _Page:
        """Return a page of a tree. Errors: PageDamaged."""
        return _Page(self._read(number, 1), number)

    def value(self, page: _Page, index: int) -> bytes:
        """Return the value of an entry of a leaf. Errors: PageDamaged."""
        flags, size, content = page.value(index)
        if not flags & BIG_VALUE:
            return content
        number = int.from_bytes(content, sys.byteorder)
        pages = -(-(PAGE_HEADER.size + size) // self.meta.page_bytes)
        extent = self._read(number, pages)
        stored, _, overflow, stored_pages = OVERFLOW_HEADER.unpack_from(extent)
        if stored != number or overflow != OVERFLOW or stored_pages < pages:
            raise PageDamaged(f"page {number} is not the value that page {page.number} names")
        return extent[PAGE_HEADER.size : PAGE_HEADER.size + size]

    def rows(self, table: bytes) -> Iterator[tuple[bytes, bytes] | None]:
        """Yield the rows of a table that can be read, and None for each page or row that cannot."""
        tree = self._tables[table]
        stack = [] if tree.root == NO_PAGE else [(tree.root, 1)]
        while stack:
            number, depth = stack.pop()
            try:
                page = self.page(number)
                if page.is_leaf != (depth == min(tree.depth, MAX_DEPTH)):
                    raise PageDamaged(f"page {number} is at the wrong depth of its tree")
                if not page.is_leaf:
                    stack += [(page.child(index), depth + 1) for index in reversed(range(len(page.offsets)))]
                    continue
            except PageDamaged:
                yield None
                continue
            for index in range(len(page.offsets)):
                try:
                    row = page.key(index), self.value(page, index)
                except PageDamaged:
                    yield None
                else:
                    yield row

    def _read(self, number: int, pages: int) -> bytes:
        size = self.meta.page_bytes
        if not METAS <= number <= self.meta.pages - pages:
            raise PageDamaged(f"page {number} is outside of the store")
        try:
            content = os.pread(self._descriptor, pages * size, number * size)
        except OSError as error:
            raise PageDamaged(f"page {number} cannot be read: {error.strerror}") from error
        if len(content) < pages * size:
            raise PageDamaged(f"page {number} is missing: the file is cut short")
        return content

    def _read_tables(self) -> Iterator[tuple[bytes, Tree]]:
        cursor = PageCursor(self, self.meta.main)
        for name, record in cursor.iternext():
            if len(record) == TREE.size:
                yield name, Tree._make(TREE.unpack(record))


class PageTransaction:
    """A transaction of ``PageFile``: as LMDB's, but a handle is the name of a table."""

    __slots__ = ("_file",)

    def __init__(self, file: PageFile) -> None:
        self._file = file

    def abort(self) -> None:
        """End the transaction, which holds nothing."""

    def get(self, key: bytes, default: bytes | None, table: bytes) -> bytes | None:
        """Return the value at a key. Errors: PageDamaged."""
        cursor = self.cursor(table)
        return cursor.value() if cursor.set_range(key) and cursor.key() == key else default

    def cursor(self, table: bytes) -> PageCursor:
        """Return a cursor on a table."""
        return PageCursor(self._file, self._file.tree(table))

    def stat(self, table: bytes) -> dict[str, int]:
        """Return the numbers in the record of a table."""
        return {**self._file.tree(table)._asdict(), "psize": self._file.meta.page_bytes}


class PageCursor:
    """A cursor on one tree. All its methods may raise PageDamaged."""

    __slots__ = ("_file", "_path", "_tree")

    def __init__(self, file: PageFile, tree: Tree) -> None:
        self._file = file
        self._tree = tree
        self._path: list[tuple[_Page, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._path.clear()

    def key(self) -> bytes:
        """Return the current key; empty if there is no current entry."""
        return self._path[-1][0].key(self._path[-1][1]) if self._path else b""

    def value(self) -> bytes:
        """Return the current value."""
        return self._file.value(*self._path[-1])

    def first(self) -> bool:
        """Go to the first entry; return whether there is one."""
        return self._descend(None, last=False)

    def last(self) -> bool:
        """Go to the last entry; return whether there is one."""
        return self._descend(None, last=True)

    def set_range(self, key: bytes) -> bool:
        """Go to the first entry whose key is not less than ``key``; return whether there is one."""
        if not key:
            return self.first()
        if not self._descend(key, last=False):
            return False
        page, index = self._path[-1]
        if index < len(page.offsets):
            return True
        self._path[-1] = (page, index - 1)
        return self.next()

    def next(self) -> bool:
        """Go to the next entry; return whether there is one."""
        return self._move(1)

    def prev(self) -> bool:
        """Go to the previous entry; return whether there is one."""
        return self._move(-1)

    def iternext(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries from the current one on, from the first if there is no current one."""
        more = bool(self._path) or self.first()
        while more:
            yield self.key(), self.value()
            more = self.next()

    def iterprev(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries from the current one backwards, from the last if there is no current one."""
        more = bool(self._path) or self.last()
        while more:
            yield self.key(), self.value()
            more = self.prev()

    def _descend(self, key: bytes | None, *, last: bool, root: int | None = None) -> bool:
        """Extend the path from ``root``, or anew from the tree's root, to a leaf."""
        number = root
        if number is None:
            self._path.clear()
            number = self._tree.root
            if number == NO_PAGE:
                return False
        while True:
            if len(self._path) >= min(self._tree.depth, MAX_DEPTH):
                raise PageDamaged(f"page {number} is deeper than its tree")
            page = self._file.page(number)
            if page.is_leaf != (len(self._path) == self._tree.depth - 1):
                raise PageDamaged(f"page {number} is at the wrong depth of its tree")
            if key is None:
                index = len(page.offsets) - 1 if last else 0
            else:
                index = page.seek(key, or_before=not page.is_leaf)
            self._path.append((page, index))
            if page.is_leaf:
                return True
            number = page.child(index)

    def _move(self, step: int) -> bool:
        depth = len(self._path)
        while self._path:
            page, index = self._path.pop()
            if 0 <= index + step < len(page.offsets):
                self._path.append((page, index + step))
                if len(self._path) == depth:
                    return True
                return self._descend(None, last=step < 0, root=page.child(index + step))
        return False


def get_handles(file: PageFile, tables: Any) -> dict[Any, bytes]:
    """Return the handles of the tables that exist in a file."""
    names = set(file.tables())
    return {table: table.name.encode() for table in tables if table.name.encode() in names}
