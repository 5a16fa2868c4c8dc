"""Which entries of a backup a restore wants."""

from collections.abc import Iterator, Sequence
from typing import Self

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.paths import ROOT
from stepvault.engines.files.tree.globs import Globs
from stepvault.engines.object_paths import as_in_key, is_bucket
from stepvault.settings import FilesSource


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the directories that hold path, outermost first."""
    slash = path.find(b"/")
    while slash >= 0:
        yield path[:slash]
        slash = path.find(b"/", slash + 1)


class Filters:
    """``include`` and ``exclude`` for paths that are not met folder by folder."""

    def __init__(self, source: FilesSource) -> None:
        self._exclude = Globs(source.exclude)
        self._include = Selection(source.include)

    def want(self, path: bytes) -> bool:
        """Return whether a file of that path is to be backed up."""
        if self.exclude(path, is_directory=False):
            return False
        return self._include.wants(path, is_directory=False)

    def exclude(self, path: bytes, *, is_directory: bool) -> bool:
        """Return whether the path or a directory above it is excluded."""
        if not self._exclude:
            return False
        for above in _above(path):
            if self._exclude.decide(above, above.rpartition(b"/")[2], is_directory=True):
                return True
        return bool(self._exclude.decide(path, path.rpartition(b"/")[2], is_directory))


class Selection:
    """``only``: paths or patterns with gitignore's meaning; a directory brings all it holds."""

    def __init__(self, only: Sequence[str], *, keys: bool = False) -> None:
        """``keys``: patterns name percent signs as the keys of objects have them."""
        self._globs = Globs(only)
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
        wanted = False
        for above in _above(path):
            verdict = self._globs.decide(above, above.rpartition(b"/")[2], is_directory=True)
            wanted = wanted if verdict is None else verdict
        verdict = self._globs.decide(path, path.rpartition(b"/")[2], is_directory)
        return wanted if verdict is None else verdict
