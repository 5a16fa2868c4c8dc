"""What of a backup this target cannot take, found before anything is written."""

import os
from pathlib import Path

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.format import index
from stepvault.engines.files.paths import show
from stepvault.engines.files.restore.failures import Failures
from stepvault.engines.files.tree.selection import Selection
from stepvault.engines.object_paths import is_bucket
from stepvault.errors import ConfigInvalid, TargetUnsupported, listed

_NAMED = 20
_NAME_MAX = 255
_KEY_MAX = 1024

#: (first, count) of each run of ids that a user namespace knows.
_Ids = list[tuple[int, int]]


class Preflight:
    """Looks at every wanted line of a backup."""

    def __init__(self, job: RestoreJob) -> None:
        self._job = job
        self._limit = _KEY_MAX if job.bucket else _name_limit(job.path)
        self._ids = _known_ids() if self._gives_owners() else None
        keys = is_bucket(job.source.path)
        self._unmatched = {
            pattern: Selection([pattern], keys=keys)
            for pattern in job.options.only
            if not pattern.startswith("!")
        }
        self._long: list[str] = []
        self._owners: dict[str, int] = {}

    def _gives_owners(self) -> bool:
        if self._job.bucket:
            return False
        keep = self._job.source.preserve_metadata and self._job.options.owner != "none"
        return keep and os.geteuid() == 0

    def look(self, line: bytes) -> None:
        """Look at a wanted line."""
        path = line[: line.index(b"\t")]
        if len(path) > self._limit and len(max(path.split(b"/"), key=len)) > self._limit:
            path = index.unescape(path)
            if len(max(path.split(b"/"), key=len)) > self._limit:
                self._long.append(show(path))
        if self._ids:
            self._look_at_owner(line, *self._ids)
        if self._unmatched:
            self._match(line)

    def _look_at_owner(self, line: bytes, users: _Ids, groups: _Ids) -> None:
        uid, gid = map(int, line.split(b"\t", 9)[7:9])
        if not (_knows(users, uid) and _knows(groups, gid)):
            owner = f"{uid}:{gid}"
            self._owners[owner] = self._owners.get(owner, 0) + 1

    def _match(self, line: bytes) -> None:
        fields = line.split(b"\t", 6)
        path, is_directory = index.unescape(fields[0]), fields[5] == index.DIRECTORY
        self._unmatched = {
            pattern: selection
            for pattern, selection in self._unmatched.items()
            if not selection.wants(path, is_directory=is_directory)
        }

    def conclude(self) -> None:
        """Refuse what cannot be done, or report it if the restore is to keep going.

        Raises:
            ConfigInvalid: a pattern of ``only`` matches nothing.
            TargetUnsupported: the target cannot take all that is wanted.
        """
        if self._unmatched:
            patterns = ", ".join(map(repr, self._unmatched))
            raise ConfigInvalid(
                f"nothing in the backup matches {patterns}",
                "Give paths relative to the source's directory; patterns have gitignore's meaning",
            )
        failures = Failures(self._job)
        if failures.keep_going:
            for name in self._long:
                failures.report("file", name, f"a name in it is longer than {self._limit} bytes")
            for owner, count in self._owners.items():
                reason = f"this user namespace does not know it; {count:,} entries get another"
                failures.report("owner", owner, reason)
        elif problems := [*self._names_too_long(), *self._unknown_owners()]:
            raise TargetUnsupported(
                listed(f"{str(self._job.path)!r} cannot take all of the backup", problems),
                "Say --keep-going to restore all else and see a list",
            )

    def _names_too_long(self) -> list[str]:
        if not self._long:
            return []
        count = len(self._long)
        more = f" and {count - _NAMED:,} more" if count > _NAMED else ""
        names = f"{count:,} name{'s are' if count > 1 else ' is'} longer than {self._limit} bytes"
        way_out = " (restore them to a bucket)" if is_bucket(self._job.source.path) else ""
        return [f"{names}{way_out}: {', '.join(self._long[:_NAMED])}{more}"]

    def _unknown_owners(self) -> list[str]:
        return [
            f"owner {owner} of {count:,} entries is unknown in this user namespace (--owner none)"
            for owner, count in list(self._owners.items())[:_NAMED]
        ]


def _name_limit(path: Path | None) -> int:
    """Bytes that a name may have where the target is or will be."""
    there = path
    while there is not None and not there.exists() and there != there.parent:
        there = there.parent
    try:
        return os.pathconf(there or ".", "PC_NAME_MAX")
    except OSError:
        return _NAME_MAX


def _known_ids() -> tuple[_Ids, _Ids] | None:
    """Users and groups of this user namespace; None where it knows all."""
    maps = []
    for kind in ("uid", "gid"):
        try:
            lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
        except OSError:
            return None
        maps.append([(int(first), int(count)) for first, _, count in map(str.split, lines)])
    users, groups = maps
    return None if users == groups == [(0, 2**32 - 1)] else (users, groups)


def _knows(ids: _Ids, one: int) -> bool:
    return any(first <= one < first + count for first, count in ids)
