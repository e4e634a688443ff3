"""Where the values of an LMDB data file lie: its B+ tree is walked once, and no value is read.

The format is that of LMDB 0.9 (data version 1) on 64-bit little-endian machines. A file is a row of pages. Pages 0 and
1 say what the file holds; the one with the later transaction counts. From the root, branch pages lead to leaf pages,
whose nodes have a key and either the value itself or, if it is large, the first of its own pages.

    page    u64 number, u16 unused, u16 flags, u16 end of the pointers, u16 start of the nodes; u16 pointers to nodes
    node    u16 low, u16 high, u16 flags, u16 size of the key; the key; the value, or u64 the number of its first page
            (in a leaf, low and high are the size of the value; in a branch, with the flags above them, a page number)
    page 0  16 bytes as of every page; u32 magic, u32 version, u64 address, u64 map size, two trees, u64 last page,
            u64 transaction; a tree is u32 (page size), u16 flags, u16 depth, three u64 counts of pages, u64 entries,
            u64 root
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.console import UserError

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = 16  # bytes before the pointers of a page
BRANCH, LEAF = 0x01, 0x02  # flags of a page
LARGE = 0x01  # flag of a node: the value has pages of its own
EMPTY = 2**64 - 1  # root of a tree without entries
PAGE_SIZES = tuple(2**power for power in range(9, 17))  # bytes
LAST_PAGE = 2**40  # a number beyond this is no page's
DEEPEST = 32  # levels that a tree may have
META = struct.Struct("<16xIIQQ IHHQQQQQ IHHQQQQQ QQ")


class Tree(NamedTuple):
    """What page 0 or 1 says of the main tree."""

    page_size: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


def value_places(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and lengths in bytes, int64 [N] each, of all values in the order of their keys.

    Of a file with large values, such as pictures, about one page of 4 kB is read for 50 of them: of LSUN's bedrooms
    (46 GB, 3 million pictures) some 250 MB, wherever in the file those pages lie, and ten seconds of computing.

    Raises:
        UserError: the file is not of this format, or cut short, or damaged.
    """
    with path.open("rb", buffering=0) as file:
        return LMDBFile(path, file.fileno()).places()


class LMDBFile:
    """An open data file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.tree = self._newest_tree()

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """See `value_places`."""
        leaves = [] if self.tree.root == EMPTY else list(self._walk(self.tree.root, self.tree.depth))
        offsets = np.concatenate([leaf[0] for leaf in leaves] or [np.zeros(0, np.int64)])
        lengths = np.concatenate([leaf[1] for leaf in leaves] or [np.zeros(0, np.int64)])
        if len(offsets) != self.tree.entries:
            raise self._damaged(f"{len(offsets):,} records were found, but it says that it has {self.tree.entries:,}")
        return offsets, lengths

    def _newest_tree(self) -> Tree:
        first = self._tree_at(0)
        size = first.page_size
        if size not in PAGE_SIZES:
            raise self._damaged(f"its page size is {size}")
        second = self._tree_at(size)
        newest = max(first, second, key=lambda tree: tree.transaction)
        if second.page_size != size or newest.last_page > LAST_PAGE:
            raise self._damaged(f"its page sizes are {size} and {second.page_size}, its last page {newest.last_page:,}")
        if newest.root != EMPTY and not 1 <= newest.depth <= DEEPEST:
            raise self._damaged(f"its tree has {newest.depth} levels")
        return newest

    def _tree_at(self, offset: int) -> Tree:
        data = os.pread(self._descriptor, META.size, offset)
        if len(data) < META.size:
            raise UserError(f"{self.path} is cut short at byte {offset + len(data):,}; copy or download it again")
        magic, version, _, _, page_size, *_, depth, _, _, _, entries, root, last, transaction = META.unpack(data)
        if magic != MAGIC or version != VERSION:
            raise UserError(
                f"{self.path} is no LMDB file of version 1 from a 64-bit little-endian machine (at byte "
                f"{offset + HEADER} stand {magic:#x} and version {version}, not {MAGIC:#x} and {VERSION})"
            )
        return Tree(page_size, depth, entries, root, last, transaction)

    def _walk(self, number: int, depth: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Offsets and lengths of the values below a page, leaf by leaf."""
        page = self._page(number, LEAF if depth == 1 else BRANCH)
        if depth == 1:
            yield self._leaf(number, page)
            return
        _, nodes = self._nodes(number, page)
        for low, high, top, _ in nodes.tolist():
            yield from self._walk(low | high << 16 | top << 32, depth - 1)

    def _page(self, number: int, kind: int) -> np.ndarray:
        """uint8 [page size]: a page that must be a leaf or a branch."""
        size = self.tree.page_size
        if number > self.tree.last_page:
            raise self._damaged(f"it refers to page {number:,}, but page {self.tree.last_page:,} is its last")
        data = os.pread(self._descriptor, size, number * size)
        if len(data) < size:
            raise UserError(
                f"{self.path} is cut short: page {number:,} of its index lies beyond its end, and it has "
                f"{self.tree.last_page + 1:,} pages of {size} bytes; copy or download it again"
            )
        found, flags = struct.unpack_from("<Q2xH", data)
        if found != number or flags & (BRANCH | LEAF) != kind:
            raise self._damaged(f"page {number:,} is none of its index (number {found:,}, flags {flags:#x})")
        return np.frombuffer(data, np.uint8)

    def _nodes(self, number: int, page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of a page's nodes, int64 [n], and their four numbers, int64 [n, 4]."""
        end = int(page[12:14].view("<u2")[0])
        if not HEADER < end <= len(page):
            raise self._damaged(f"page {number:,} of its index has pointers up to byte {end}")
        places = page[HEADER : end & ~1].view("<u2").astype(np.int64)
        if np.any(places < end) or np.any(places > len(page) - 8):
            raise self._damaged(f"page {number:,} of its index has a node outside of it")
        return places, page[places[:, None] + np.arange(8)].view("<u2").astype(np.int64)

    def _leaf(self, number: int, page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places, nodes = self._nodes(number, page)
        low, high, flags, key_size = nodes.T
        if np.any(flags & ~LARGE):
            raise UserError(f"{self.path} holds databases inside the database, which no dataset of pictures has")
        lengths = low | high << 16
        values = places + 8 + key_size  # where the value stands, or the number of its first page
        large = (flags & LARGE) != 0
        if np.any(values + np.where(large, 8, lengths) > len(page)):
            raise self._damaged(f"page {number:,} of its index has a value outside of it")
        offsets = number * len(page) + values
        pages = page[values[large, None] + np.arange(8)].view("<u8")[:, 0]
        if np.any(pages > self.tree.last_page):
            raise self._damaged(f"page {number:,} of its index refers to a page beyond its last")
        offsets[large] = pages.astype(np.int64) * len(page) + HEADER
        return offsets, lengths

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path} is damaged: {what}; copy or download it again")
