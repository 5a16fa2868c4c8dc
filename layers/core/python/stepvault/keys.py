"""All S3 keys that Stepvault writes or reads. No other module builds one.

::

    backups/<source>/<run-id>/data/<object>            the data, in formats others can read
    backups/<source>/<run-id>/receipts/<unit>.json     one per finished unit
    backups/<source>/<run-id>/manifest.json            written last: the backup exists from here on
    runs/<run-id>/request.json                         what started it
    runs/<run-id>/plan/<kind>.jsonl                    one line per unit, read by the Distributed Map
    runs/<run-id>/plan/sources.jsonl                   the sources of files, each planned by itself
    runs/<run-id>/plan/<source>/units.jsonl            their units
    runs/<run-id>/plan/<source>/<unit>.list.zst        a file batch: NUL-ended paths
    runs/<run-id>/failures/<source>/<unit>.json        why a unit failed; never removed; read by `show`
    runs/<run-id>/summary.json                         what the run did, written by seal
    runs/map-results/                                  Step Functions' own, written and read by it alone
    restores/<restore-id>/<stage>.jsonl                one line per restore task
    restores/<restore-id>/unrestored/<stage>-<task>.jsonl   what a task left out or could not put back
    restores/<restore-id>/report.json                  all of these, once each; written at the end
    state/schedules.json                               since when each schedule is as it is
"""

import hashlib
import re
from datetime import UTC, datetime

BACKUPS = "backups/"
RUNS = "runs/"
RESTORES = "restores/"
#: What the check of the schedules remembers.
SCHEDULES = "state/schedules.json"

#: Names that are safe as one key segment, in a URL, a file name, a metric dimension and an
#: execution name: S3's "safe characters" without those a shell or a path would mind.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[A-Za-z0-9._-]{1,80}")


def run_id(started: datetime, execution_name: str) -> str:
    """Return the id of the run that an execution carries out.

    The start time comes first, so that ids sort by age; the name makes ids unique.
    """
    stamp = started.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{re.sub(r'[^A-Za-z0-9._-]', '-', execution_name)[:80]}"


def is_run_id(text: str) -> bool:
    """Tell whether the text has the form of a run id and begins with a valid time."""
    if _RUN_ID.fullmatch(text) is None:
        return False
    try:
        run_started(text)
    except ValueError:
        return False
    return True


def run_started(run: str) -> datetime:
    """Return when the run of that id started (UTC)."""
    return datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def source_prefix(source: str) -> str:
    """Return where all backups of a source are stored."""
    return f"{BACKUPS}{source}/"


def backup_prefix(source: str, run: str) -> str:
    """Return where one run's backup of a source is stored."""
    return f"{BACKUPS}{source}/{run}/"


def data_prefix(source: str, run: str) -> str:
    """Return where the data objects of a backup are stored.

    This is the folder to download for a restore without Stepvault.
    """
    return f"{BACKUPS}{source}/{run}/data/"


def data(source: str, run: str, name: str) -> str:
    """Return the key of a data object; ``name`` is its path below the data folder."""
    return data_prefix(source, run) + name


def receipt(source: str, run: str, unit: str) -> str:
    """Return the key of a unit's receipt."""
    return f"{BACKUPS}{source}/{run}/receipts/{unit}.json"


def receipts_prefix(source: str, run: str) -> str:
    """Return where the receipts of a backup are stored."""
    return f"{BACKUPS}{source}/{run}/receipts/"


def manifest(source: str, run: str) -> str:
    """Return the key of the object that makes a backup exist."""
    return f"{BACKUPS}{source}/{run}/manifest.json"


def request(run: str) -> str:
    """Return the key of what started the run; it is written before anything else of the run."""
    return f"{RUNS}{run}/request.json"


def plan(run: str, kind: str) -> str:
    """Return the key of the list of units of one kind."""
    return f"{RUNS}{run}/plan/{kind}.jsonl"


def sources_to_plan(run: str) -> str:
    """Name the list of the sources that are planned by functions of their own."""
    return f"{RUNS}{run}/plan/sources.jsonl"


def source_units(run: str, source: str) -> str:
    """Name the list of the units of one source; it is planned once that is there."""
    return f"{RUNS}{run}/plan/{source}/units.jsonl"


def retry_plan(run: str, kind: str, attempt: int) -> str:
    """Return the key of the list of units that a redrive has to do again."""
    return f"{RUNS}{run}/plan/{kind}.retry-{attempt}.jsonl"


def listing(run: str, source: str, unit: str) -> str:
    """Return the key of the list of paths that a unit of files reads."""
    return f"{RUNS}{run}/plan/{source}/{unit}.list.zst"


def failure(run: str, source: str, unit: str) -> str:
    """Return the key of the record of why a unit failed."""
    return f"{RUNS}{run}/failures/{source}/{unit}.json"


def failures_prefix(run: str) -> str:
    """Return where the failure records of a run are stored."""
    return f"{RUNS}{run}/failures/"


def summary(run: str) -> str:
    """Return the key of the record of what a run did."""
    return f"{RUNS}{run}/summary.json"


def restore_plan(restore: str, stage: str) -> str:
    """Return the key of the list of a restore's tasks of one stage."""
    return f"{RESTORES}{restore}/{stage}.jsonl"


def unrestored(restore: str, stage: str, task: str) -> str:
    """Name what the task left out or could not put back; written only if there is something."""
    # A task's id is the engine's own, and may hold what no key should.
    digest = hashlib.sha256(task.encode()).hexdigest()[:16]
    return f"{unrestored_prefix(restore)}{stage}-{digest}.jsonl"


def unrestored_prefix(restore: str) -> str:
    """Where the tasks of a restore report what they left out."""
    return f"{RESTORES}{restore}/unrestored/"


def restore_report(restore: str) -> str:
    """Name the report of what a restore as a whole left out."""
    return f"{RESTORES}{restore}/report.json"


def parse_backup(key: str) -> tuple[str, str, str] | None:
    """Split a key under ``backups/`` into source, run id and the rest.

    Returns:
        None if Stepvault did not make the key.
    """
    if not key.startswith(BACKUPS):
        return None
    parts = key[len(BACKUPS) :].split("/", 2)
    if len(parts) != 3 or not SAFE_NAME.fullmatch(parts[0]) or not is_run_id(parts[1]):
        return None
    return parts[0], parts[1], parts[2]
