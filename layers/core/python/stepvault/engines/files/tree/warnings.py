"""What a person should know about a walk or a pack although the backup is whole."""

import threading

from stepvault.engines.files.paths import show

_NAMED = 20


class Warnings:
    """Counts warnings by kind and keeps the first few paths of each. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[str, list[str]] = {}
        self.counts: dict[str, int] = {}
        self.mounts: list[bytes] = []
        """Directories of the walk where another file system begins."""

    def add(self, what: str, path: bytes) -> None:
        """Remember that ``what`` (such as "skipped: a socket") is true of path."""
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            named = self._paths.setdefault(what, [])
            if len(named) < _NAMED:
                named.append(show(path))

    def collected(self) -> tuple[dict[str, int], dict[str, list[str]], list[bytes]]:
        """Return counts and paths by kind, and the mounts, for ``take`` of another one."""
        return self.counts, self._paths, self.mounts

    def take(
        self, counts: dict[str, int], paths: dict[str, list[str]], mounts: list[bytes]
    ) -> None:
        """Add what another one collected."""
        self.mounts += mounts
        for what, count in counts.items():
            self.counts[what] = self.counts.get(what, 0) + count
            named = self._paths.setdefault(what, [])
            named += paths[what][: _NAMED - len(named)]

    def lines(self) -> list[str]:
        """Return one line per kind: what, how many, and the first paths."""
        lines = []
        for what, count in self.counts.items():
            named = self._paths[what]
            more = f" and {count - len(named)} more" if count > len(named) else ""
            lines.append(f"{what} ({count}): {', '.join(named)}{more}")
        return lines
