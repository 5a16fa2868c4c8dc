"""Which entries of a backup a restore wants."""

from collections.abc import Sequence
from typing import Self

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.paths import ROOT, split
from stepvault.engines.files.tree.globs import Globs
from stepvault.engines.object_paths import as_in_key, is_bucket
from stepvault.settings import FilesSource


class _Verdicts:
    """What patterns make of paths, directories above included; asked in walk order best.

    Of each directory it is worked out once, or depth would count twice: in the paths and in the
    directories above each.
    """

    _KEPT = 4096

    def __init__(self, globs: Globs, *, last_wins: bool) -> None:
        """``last_wins``: a verdict on a path takes back that on a directory above it."""
        self._globs = globs
        self._last_wins = last_wins
        self._of_directories: dict[bytes, bool] = {}

    def of(self, path: bytes, *, is_directory: bool) -> bool:
        parent, name = split(path)
        above = False if parent == ROOT else self._of_directory(parent)
        return self._decide(above, path, name, is_directory=is_directory)

    def _decide(self, above: bool, path: bytes, name: bytes, *, is_directory: bool) -> bool:
        if above and not self._last_wins:
            return True
        verdict = self._globs.decide(path, name, is_directory)
        return above if verdict is None else verdict

    def _of_directory(self, path: bytes) -> bool:
        missing = []
        while path != ROOT and path not in self._of_directories:
            missing.append(path)
            path = split(path)[0]
        verdict = self._of_directories.get(path, False)
        if len(self._of_directories) + len(missing) > self._KEPT:
            self._of_directories.clear()
        for directory in reversed(missing):
            name = split(directory)[1]
            verdict = self._decide(verdict, directory, name, is_directory=True)
            self._of_directories[directory] = verdict
        return verdict


class Filters:
    """``include`` and ``exclude`` for paths that are not met folder by folder."""

    def __init__(self, source: FilesSource) -> None:
        globs = Globs(source.exclude)
        self._excluded = _Verdicts(globs, last_wins=False) if globs else None
        self._include = Selection(source.include)

    def want(self, path: bytes) -> bool:
        """Return whether a file of that path is to be backed up."""
        if self.exclude(path, is_directory=False):
            return False
        return self._include.wants(path, is_directory=False)

    def exclude(self, path: bytes, *, is_directory: bool) -> bool:
        """Return whether the path or a directory above it is excluded."""
        return self._excluded is not None and self._excluded.of(path, is_directory=is_directory)


class Selection:
    """``only``: paths or patterns with gitignore's meaning; a directory brings all it holds."""

    def __init__(self, only: Sequence[str], *, keys: bool = False) -> None:
        """``keys``: patterns name percent signs as the keys of objects have them."""
        self._verdicts = _Verdicts(Globs(only), last_wins=True)
        self._keys = keys
        self.everything = not only

    @classmethod
    def of(cls, job: RestoreJob) -> Self:
        """Return what a restore is asked for."""
        return cls(job.options.only, keys=is_bucket(job.source.path))

    def wants(self, path: bytes, *, is_directory: bool) -> bool:
        """Return whether the path, or a directory above it, matches."""
        if self.everything:
            return True
        if path == ROOT:
            return False
        if self._keys:
            path = as_in_key(path)
        return self._verdicts.of(path, is_directory=is_directory)
