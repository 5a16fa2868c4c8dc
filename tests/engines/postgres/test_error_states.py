"""What each of PostgreSQL's errors becomes, when the source raises it and when the target does."""

from typing import Any

import psycopg
import pytest

from stepvault import errors as ours
from stepvault.engines.base import Connection
from stepvault.engines.postgres import errors
from stepvault.errors import StepvaultError, Transient

#: Class of SQLSTATEs to our class; the longest that fits counts. All else is unsupported.
KINDS = {
    "08": "SourceUnreachable",
    "25P03": "SourceUnreachable",
    "25P04": "SourceUnreachable",
    "28": "SourceDenied",
    "3D000": "SourceMissing",
    "40": "SourceChanged",
    "40003": "SourceUnreachable",
    "40P01": "SourceBusy",
    "42501": "SourceDenied",
    "53": "SourceBusy",
    "53100": "SourceUnsupported",
    "53200": "SourceUnsupported",
    "53400": "SourceUnsupported",
    "55006": "SourceBusy",
    "55P03": "SourceBusy",
    "57014": "SourceBusy",
    "57P0": "SourceUnreachable",
    "57P04": "SourceMissing",
    "58": "SourceCorrupt",
    "58P01": "SourceUnsupported",
    "72": "SourceChanged",
    "XX": "Permanent",
    "XX001": "SourceCorrupt",
    "XX002": "SourceCorrupt",
}
STATES: dict[str, type[psycopg.Error]] = {
    thing.sqlstate: thing
    for thing in vars(psycopg.errors).values()
    if isinstance(thing, type) and issubclass(thing, psycopg.Error) and thing.sqlstate
}
#: A part of the next step in the source, in the target.
STEPS = {
    "08006": ("try again", "try again"),
    "0A000": ("does not know", "target's server does not know"),
    "22P05": ("See the message", "--keep-going"),
    "23505": ("See the message", "which rows break the constraint"),
    "25006": ("See the message", "name the primary"),
    "28P01": ("password", "password"),
    "3D000": ("database's name", "database's name"),
    "40001": ("other transactions", "other transactions"),
    "42501": ("pg_read_all_data", "--owner none or NAME"),
    "42P07": ("See the message", "allow overwriting"),
    "42704": ("See the message", "The target lacks it"),
    "53100": ("disk is full", "run the same restore again"),
    "53200": ("max_locks_per_transaction", "target's server"),
    "53300": ("max_connections", "target's server"),
    "53400": ("Raise the limit", "Raise the limit"),
    "54000": ("limit of the server", "limit of the server"),
    "55006": ("nobody else", "nobody else"),
    "55P03": ("holds the lock", "holds the lock"),
    "57P01": ("shut down or ended", "shut down or ended"),
    "58030": ("its disks", "its disks"),
    "58P01": ("extension's library", "--without extension:NAME"),
    "HV000": ("foreign server", "--keep-going"),
    "P0001": ("function", "trigger"),
    "XX000": ("its log", "its log"),
    "XX001": ("pg_amcheck", "another database"),
}


def test_every_state_of_the_driver_becomes_what_the_table_says() -> None:
    assert len(STATES) > 240
    wrong = {}
    for state, kind in STATES.items():
        fitting = [state[:n] for n in (5, 4, 2) if state[:n] in KINDS]
        expected = KINDS[fitting[0]] if fitting else "SourceUnsupported"
        for explain in (errors.from_server, errors.at_target):
            known = explain(kind("so it is"), "cannot do it")
            if (
                type(known).__name__ != expected
                or not known.fix
                or known.message[-8:] != "so it is"
            ):
                wrong[state, explain.__name__] = repr(known)
    assert wrong == {}


@pytest.mark.parametrize("state", STEPS)
def test_the_next_step_fits_the_side_that_failed(state: str) -> None:
    at_source, at_target = STEPS[state]
    error = STATES[state]("so it is")
    assert at_source in errors.from_server(error, "cannot").fix
    assert at_target in errors.at_target(error, "cannot").fix


@pytest.mark.parametrize("state", STATES)
def test_programs_say_the_same_as_the_driver(state: str) -> None:
    where = Connection("db")
    text = f"x: error: ERROR:  {state}: so it is\nLOCATION:  f, f.c:1"
    error = STATES[state]("so it is")
    for program, explain in (
        ("pg_dump", errors.from_server),
        ("psql", errors.from_server),
        ("pg_restore", errors.at_target),
    ):
        known, expected = errors.from_program(program, text, where), explain(error, "")
        assert (type(known), known.fix) == (type(expected), expected.fix)
        assert known.message == f"{program} failed: x: error: so it is"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("consuming input failed"), "SourceUnreachable"),
        (psycopg.InterfaceError("the connection is closed"), "SourceUnreachable"),
        (psycopg.DataError("text fields cannot contain NUL"), "SourceUnsupported"),
        (psycopg.NotSupportedError("no such thing"), "SourceUnsupported"),
        (psycopg.ProgrammingError("the cursor is closed"), "SourceUnsupported"),
        (psycopg.InternalError("unexpected result"), "SourceUnsupported"),
        (psycopg.errors.ConnectionTimeout("timeout expired"), "SourceUnreachable"),
    ],
)
def test_errors_of_the_driver_itself(error: psycopg.Error, kind: str) -> None:
    for explain in (errors.from_server, errors.at_target):
        known = explain(error, "cannot")
        assert (type(known).__name__, known.message) == (kind, f"cannot: {error}")


CONFLICT = "terminating connection due to conflict with recovery"


@pytest.mark.parametrize(
    ("text", "kind", "step"),
    [
        (f"FATAL:  40001: {CONFLICT}\nserver closed the connection", ours.SourceChanged, "standby"),
        (f"FATAL:  {CONFLICT}\nconnection to server was lost", ours.SourceChanged, "standby"),
        (
            "FATAL:  57P01: terminating connection due to administrator command\n"
            "server closed the connection unexpectedly",
            ours.SourceUnreachable,
            "ended the session",
        ),
        ("server closed the connection unexpectedly", ours.SourceUnreachable, "broke"),
        ("ERROR:  permission denied for large object 7", ours.SourceDenied, "LARGE OBJECT"),
        ("ERROR:  42501: permission denied for large object 7", ours.SourceDenied, "LARGE OBJECT"),
        ("ERROR:  permission denied for table t", ours.SourceDenied, "pg_read_all_data reads"),
        ("could not write block 3: No space left on device", ours.SourceUnsupported, "disk"),
        ("something nobody has seen", ours.SourceUnsupported, "See the message"),
    ],
)
def test_the_message_says_more_than_the_state(
    text: str, kind: type[StepvaultError], step: str
) -> None:
    known = errors.from_program("psql", f"psql: error: {text}", Connection("db"))
    assert isinstance(known, kind)
    assert step in known.fix


def test_a_conflict_on_a_standby_is_explained_to_the_driver_too() -> None:
    kinds: list[Any] = [psycopg.OperationalError, psycopg.errors.SerializationFailure]
    for kind in kinds:
        known = errors.from_server(kind(f"FATAL:  {CONFLICT}"), "cannot read")
        assert isinstance(known, Transient)
        assert "hot_standby_feedback" in known.fix
