"""The content proof of a table: the same rows give the same sums in any order, on any server."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import xxhash

_MASK = (1 << 64) - 1


@dataclass
class Sums:
    """Count of the rows and sum of their xxh3 hashes, modulo 2**64. Those of a table's pieces add
    up to the table's."""

    rows: int = 0
    digest: int = 0

    def add(self, rows: Sequence[bytes]) -> None:
        self.rows += len(rows)
        self.digest = (self.digest + sum(map(xxhash.xxh3_64_intdigest, rows))) & _MASK

    def add_hash(self, digest: int) -> None:
        """One row, hashed elsewhere."""
        self.rows += 1
        self.digest = (self.digest + digest) & _MASK

    def plus(self, other: "Sums") -> "Sums":
        return Sums(self.rows + other.rows, (self.digest + other.digest) & _MASK)

    def text(self) -> str:
        """16 hexadecimal digits."""
        return f"{self.digest:016x}"

    @classmethod
    def parse(cls, rows: int | None, text: str) -> "Sums":
        return cls(rows or 0, int(text, 16))


def total(pieces: Iterable[Sums]) -> Sums:
    return reduce(Sums.plus, pieces, Sums())
