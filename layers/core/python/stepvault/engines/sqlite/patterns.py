"""Paths with wildcards: which files a source names, and which of them it leaves out.

A pattern is matched segment by segment, so that a walk enters only folders that can hold a match
and any number of ``**`` costs no more than the length of the path.
"""

import glob
import re
from collections.abc import Iterable
from itertools import accumulate

#: How far into a pattern a path has come: the segments that may match its next name.
State = frozenset[int]


class Pattern:
    """A pattern in which ``*``, ``?`` and ``[…]`` stay in a segment and ``**`` crosses folders."""

    def __init__(self, pattern: str) -> None:
        self._segments = [_segment(segment) for segment in pattern.split("/")]
        self._end = len(self._segments)
        self.start: State = self._with_skipped([0])
        self.any_name = self._segments[-1] is None
        """Whether it ends in ``**``, so that it names all that lies in a folder."""

    def enter(self, state: State, name: str) -> State:
        """Return the state after one more name of the path."""
        after = []
        for index in state - {self._end}:
            segment = self._segments[index]
            if segment is None:
                after += [index, self._end] if index == self._end - 1 else [index]
            elif segment.match(name):
                after.append(index + 1)
        return self._with_skipped(after)

    def is_match(self, state: State) -> bool:
        """Tell whether the path up to here matches."""
        return self._end in state

    def may_match_below(self, state: State) -> bool:
        """Tell whether a longer path can match."""
        return bool(state - {self._end})

    def matches(self, path: str) -> bool:
        """Tell whether a whole path matches."""
        state = self.start
        for name in path.split("/"):
            state = self.enter(state, name)
        return self.is_match(state)

    def _with_skipped(self, indexes: Iterable[int]) -> State:
        """Add what follows each ``**`` that may stand for nothing: all but a last one."""
        state = set(indexes)
        for index in sorted(state):
            following = index
            while following < self._end - 1 and self._segments[following] is None:
                following += 1
                state.add(following)
        return frozenset(state)


def _segment(segment: str) -> re.Pattern[str] | None:
    """Return what one segment matches, None for ``**``."""
    if segment == "**":
        return None
    return re.compile(glob.translate(segment, include_hidden=True))


class Exclusion:
    """Patterns as in .gitignore, without exceptions: ``name``, ``folder/``, ``/from/the/top``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [(_anywhere(p), p.endswith("/")) for p in patterns]

    def excludes(self, path: str, *, folder: bool) -> bool:
        """Tell whether a file or folder is left out, its parents not being so."""
        return any(
            p.matches(path) for p, folders_only in self._patterns if folder or not folders_only
        )

    def excludes_below(self, path: str) -> bool:
        """Tell whether a file is left out, by itself or with a folder that it lies in."""
        *folders, whole = accumulate(path.split("/"), lambda above, name: f"{above}/{name}")
        return self.excludes(whole, folder=False) or any(
            self.excludes(folder, folder=True) for folder in folders
        )


def _anywhere(pattern: str) -> Pattern:
    """Return the pattern; without a slash but at its end it matches at any depth."""
    plain = pattern.rstrip("/")
    return Pattern(plain.removeprefix("/") if "/" in plain else f"**/{plain}")
