"""Digest the rows of a table: the same rows give the same sums in any order, on any server."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import xxhash

_MASK = (1 << 64) - 1


@dataclass
class Sums:
    """Count of the rows and sum of their xxh3 hashes, modulo 2**64.

    The sums of a table's pieces add up to the table's.
    """

    rows: int = 0
    digest: int = 0

    def add(self, rows: Sequence[bytes]) -> None:
        """Add rows, each in the form that is hashed."""
        self.rows += len(rows)
        self.digest = (self.digest + sum(map(xxhash.xxh3_64_intdigest, rows))) & _MASK

    def add_hash(self, digest: int) -> None:
        """Add one row that was hashed elsewhere."""
        self.rows += 1
        self.digest = (self.digest + digest) & _MASK

    def plus(self, other: "Sums") -> "Sums":
        """Give the sums of both together."""
        return Sums(self.rows + other.rows, (self.digest + other.digest) & _MASK)

    def text(self) -> str:
        """Write the digest as 16 hexadecimal digits."""
        return f"{self.digest:016x}"

    @classmethod
    def parse(cls, rows: int | None, text: str) -> "Sums":
        """Read sums as a receipt keeps them; ``text`` is the digest's."""
        return cls(rows or 0, int(text, 16))


def total(pieces: Iterable[Sums]) -> Sums:
    """Add up the sums of a table's pieces."""
    return reduce(Sums.plus, pieces, Sums())
