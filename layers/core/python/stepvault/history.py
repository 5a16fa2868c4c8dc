"""How large a source's earlier backups were, and whether a new one is unlike them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from stepvault.catalog import Vault
from stepvault.errors import BackupTampered
from stepvault.records import SourceResult, Summary

#: Runs looked back at; of a nightly and an hourly schedule together some hours, and enough.
RUNS = 20
#: Earlier backups that it takes to call a size unusual.
LEAST = 3
#: A backup of less than half or more than twice the usual size is unusual.
FACTOR = 2


def with_unusual(vault: Vault, run: str, results: Sequence[SourceResult]) -> list[SourceResult]:
    """Mark the sealed results whose size is unlike that of the source's earlier backups."""
    earlier = [other for other in vault.runs() if other < run][-RUNS:]
    with ThreadPoolExecutor(16, thread_name_prefix="history") as pool:
        read = pool.map(lambda other: readable_summary(vault, other), earlier)
        summaries = [summary for summary in read if summary is not None]
    return [
        result.model_copy(update={"unusual": unusual(result, _sizes(summaries, result.source))})
        for result in results
    ]


def readable_summary(vault: Vault, run: str) -> Summary | None:
    """Return what an earlier run did; None if it is not sealed, or its record cannot be read."""
    try:
        return vault.summary(run)
    except BackupTampered:
        return None


def _sizes(summaries: Sequence[Summary], source: str) -> list[int]:
    """Give the raw bytes of the source's sealed backups, oldest first."""
    return [
        result.raw_bytes
        for summary in summaries
        for result in summary.sources
        if result.source == source and result.status == "sealed"
    ]


def unusual(result: SourceResult, earlier: Sequence[int]) -> str | None:
    """Say how a backup's size is unlike the earlier ones'; None if it is like them.

    Args:
        result: of the new backup.
        earlier: raw bytes of the source's sealed backups before it.
    """
    if result.status != "sealed" or len(earlier) < LEAST:
        return None
    usual = median(earlier)
    if usual / FACTOR <= result.raw_bytes <= usual * FACTOR:
        return None
    return (
        f"{result.source}: {result.raw_bytes / 1e6:,.1f} MB where the last {len(earlier)} backups "
        f"had {usual / 1e6:,.1f} MB"
    )
