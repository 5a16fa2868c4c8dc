"""What the target cannot take of a backup, found before anything is written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import privileges
from stepvault.engines.mysql.session import Session
from stepvault.engines.mysql.target import Chosen
from stepvault.errors import StepvaultError, TargetUnsupported, listed
from stepvault.records import StoredObject, Unrestored


@dataclass(frozen=True)
class Problem:
    """One thing that the target refuses."""

    key: str
    """The object's name; for a program the object's name, a colon and the program's label."""
    kind: str
    name: str
    reason: str
    fix: str = ""
    """What would let the target take it; going without it is always possible."""

    def __str__(self) -> str:
        fix = f"{self.fix}, or " if self.fix else ""
        return f"{self.kind} {self.name}: {self.reason} ({fix}--without {self.kind}:{self.name})"


def check(job: RestoreJob, session: Session, chosen: Chosen) -> set[str]:
    """Look for what the target cannot take.

    Returns:
        The keys of what a restore that keeps going has to go without; all of it is reported.

    Raises:
        TargetUnsupported: there is something, and the restore is not to keep going.
    """
    problems = list(_problems(job, session, chosen))
    if problems and not job.options.keep_going:
        raise TargetUnsupported(
            listed(
                f"{session.address} cannot take {len(problems)} of what the backup holds",
                [str(problem) for problem in problems],
            ),
            "Follow the advice at each, or pass --keep-going to restore everything else",
        )
    for problem in problems:
        reason = f"{problem.reason}. {problem.fix}" if problem.fix else problem.reason
        job.unrestored(Unrestored(kind=problem.kind, name=problem.name, reason=reason))
    return {problem.key for problem in problems}


def _problems(job: RestoreJob, session: Session, chosen: Chosen) -> Iterator[Problem]:
    yield from _same_names(session, chosen)
    yield from _tables(session, chosen)
    yield from _definers(job, session, chosen)
    yield from _logged_functions(session, chosen)
    yield from _collations(session, chosen)


def _same_names(session: Session, chosen: Chosen) -> Iterator[Problem]:
    """Find tables and views whose names differ in case only, on a server without case in names."""
    taken: dict[tuple[str, str], str] = {}
    for kind in ("table", "view", "sequence"):
        for stored in sorted(chosen.of(kind), key=lambda o: str(o.facts["name"])):
            target, name = chosen.target(stored), stored.facts["name"]
            other = taken.setdefault((target, session.fold(name)), name)
            if other != name:
                reason = f"the target writes names in lower case, and {other} has the same one"
                yield Problem(stored.name, kind, name, reason)


def _tables(session: Session, chosen: Chosen) -> Iterator[Problem]:
    engines = {
        str(name).lower()
        for name, support in session.rows("SELECT engine, support FROM information_schema.engines")
        if support in {"YES", "DEFAULT"}
    }
    if session.mariadb:
        rule = "innodb_force_primary_key"
        forced = bool(int(session.one(f"SELECT @@{rule}")[0]))
    else:
        rule = "sql_require_primary_key"
        forced = session.number >= (8, 0, 13) and bool(int(session.one(f"SELECT @@{rule}")[0]))
    for stored in chosen.of("table"):
        name, engine = stored.facts["name"], stored.facts.get("engine")
        if engine and engine not in engines:
            yield Problem(stored.name, "table", name, f"the target has no engine {engine}")
        elif (
            forced
            and stored.facts.get("key") is False
            and (engine == "innodb" or not session.mariadb)
        ):
            reason = f"it has no primary key, and the target has {rule}=ON"
            yield Problem(stored.name, "table", name, reason, f"Set {rule}=OFF")


def _definers(job: RestoreJob, session: Session, chosen: Chosen) -> Iterator[Problem]:
    if job.options.owner != "keep" or privileges.may_set_definer(session):
        return
    me = str(session.one("SELECT CURRENT_USER()")[0])
    for key, kind, name, needs in _with_needs(chosen):
        definer = needs.get("definer", "")
        if definer not in {"", me}:
            reason = f"this user may not create what {definer} defines"
            yield Problem(key, kind, name, reason, "Restore with --owner none")


def _logged_functions(session: Session, chosen: Chosen) -> Iterator[Problem]:
    """Find triggers and functions where only a SUPER user may create them: the binary log is on."""
    if privileges.may_log_functions(session):
        return
    logs, trusts = session.one("SELECT @@log_bin, @@log_bin_trust_function_creators")
    if not int(logs) or int(trusts):
        return
    for key, kind, name, _ in _with_needs(chosen):
        if kind in {"trigger", "function"}:
            yield Problem(
                key, kind, name, "the binary log is on and this user has no SUPER",
                "Set log_bin_trust_function_creators=1",
            )  # fmt: skip


def _collations(session: Session, chosen: Chosen) -> Iterator[Problem]:
    known = {
        _utf8(str(name))
        for names in session.rows(
            "SELECT collation_name, character_set_name FROM information_schema.collations"
        )
        for name in names
    }
    if session.mariadb:  # since 10.10 such names stand for several character sets
        known |= {
            _utf8(str(row[0]))
            for row in _quietly(
                session,
                "SELECT full_collation_name FROM information_schema.collation_character_set_applicability",
            )
        }

    def unknown(names: Iterable[str]) -> str:
        return next((n for n in names if _utf8(n) not in known), "")

    for stored in chosen.of("table"):
        if missing := unknown(stored.facts.get("collations", ())):
            reason = f"the target does not know the collation or character set {missing}"
            yield Problem(stored.name, "table", stored.facts["name"], reason)
    for key, kind, name, needs in _with_needs(chosen):
        if missing := unknown([needs["collation"]] if "collation" in needs else ()):
            reason = f"the target does not know the collation {missing}"
            yield Problem(key, kind, name, reason)


def _utf8(name: str) -> str:
    """Return a collation's name with the older of two names of one character set."""
    return name.lower().replace("utf8mb3", "utf8")


def _quietly(session: Session, query: str) -> list[tuple[object, ...]]:
    try:
        return session.rows(query)
    except StepvaultError:
        return []


def _with_needs(chosen: Chosen) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield key, kind, name and needs of views and programs, as far as the backup tells them."""
    for stored in chosen.of("view"):
        yield stored.name, "view", stored.facts["name"], stored.facts.get("needs", {})
    for stored in (*chosen.of("post"), *chosen.of("triggers")):
        for label, needs in _needs(stored).items():
            kind, name = chosen.program(stored, label)
            if not chosen.left_out(kind, stored, name):
                yield f"{stored.name}:{label}", kind, name, needs


def _needs(stored: StoredObject) -> dict[str, dict[str, str]]:
    needs: dict[str, dict[str, str]] = stored.facts.get("needs", {})
    return needs
