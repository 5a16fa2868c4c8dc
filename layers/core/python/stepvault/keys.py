"""Every S3 key Stepvault writes or reads. No other module spells one.

::

    backups/<source>/<run-id>/data/<object>            the data, in formats others can read
    backups/<source>/<run-id>/receipts/<unit>.json     one per finished unit
    backups/<source>/<run-id>/manifest.json            written last: the backup exists from here on
    runs/<run-id>/request.json                         what started it
    runs/<run-id>/plan/<kind>.jsonl                    one line per unit, read by the Distributed Map
    runs/<run-id>/plan/<source>/<unit>.list.zst        a file batch: NUL-ended paths
    runs/<run-id>/failures/<source>/<unit>.json        why a unit failed, removed by nobody, read by `show`
    runs/<run-id>/summary.json                         what the run did, written by seal
    runs/map-results/                                  Step Functions' own, written and read by it alone
    restores/<restore-id>/<stage>.jsonl                one line per restore task
    state/schedules.json                               since when each schedule is as it is
"""

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
    """The id of the run that the execution of that name, started then, carries out.

    The start time comes first so that ids sort by age; the name keeps two apart.
    """
    stamp = started.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{re.sub(r'[^A-Za-z0-9._-]', '-', execution_name)[:80]}"


def is_run_id(text: str) -> bool:
    """Whether it reads as a run's id and begins with a moment that there is."""
    if _RUN_ID.fullmatch(text) is None:
        return False
    try:
        run_started(text)
    except ValueError:
        return False
    return True


def run_started(run: str) -> datetime:
    """When the run of that id started (UTC)."""
    return datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def source_prefix(source: str) -> str:
    return f"{BACKUPS}{source}/"


def backup_prefix(source: str, run: str) -> str:
    return f"{BACKUPS}{source}/{run}/"


def data_prefix(source: str, run: str) -> str:
    """Where the backup's own objects live; download this folder to restore without Stepvault."""
    return f"{BACKUPS}{source}/{run}/data/"


def data(source: str, run: str, name: str) -> str:
    return data_prefix(source, run) + name


def receipt(source: str, run: str, unit: str) -> str:
    return f"{BACKUPS}{source}/{run}/receipts/{unit}.json"


def receipts_prefix(source: str, run: str) -> str:
    return f"{BACKUPS}{source}/{run}/receipts/"


def manifest(source: str, run: str) -> str:
    return f"{BACKUPS}{source}/{run}/manifest.json"


def request(run: str) -> str:
    """What started the run; written before anything else of it."""
    return f"{RUNS}{run}/request.json"


def plan(run: str, kind: str) -> str:
    return f"{RUNS}{run}/plan/{kind}.jsonl"


def retry_plan(run: str, kind: str, attempt: int) -> str:
    """The units a redrive has to do again."""
    return f"{RUNS}{run}/plan/{kind}.retry-{attempt}.jsonl"


def listing(run: str, source: str, unit: str) -> str:
    return f"{RUNS}{run}/plan/{source}/{unit}.list.zst"


def failure(run: str, source: str, unit: str) -> str:
    return f"{RUNS}{run}/failures/{source}/{unit}.json"


def failures_prefix(run: str) -> str:
    return f"{RUNS}{run}/failures/"


def summary(run: str) -> str:
    return f"{RUNS}{run}/summary.json"


def restore_plan(restore: str, stage: str) -> str:
    return f"{RESTORES}{restore}/{stage}.jsonl"


def parse_backup(key: str) -> tuple[str, str, str] | None:
    """``(source, run id, rest)`` of a key under ``backups/``, or None if it is not ours."""
    if not key.startswith(BACKUPS):
        return None
    parts = key[len(BACKUPS) :].split("/", 2)
    if len(parts) != 3 or not SAFE_NAME.fullmatch(parts[0]) or not is_run_id(parts[1]):
        return None
    return parts[0], parts[1], parts[2]
