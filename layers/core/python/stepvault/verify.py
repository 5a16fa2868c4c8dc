"""Prove a backup: every object is read in full and compared with its manifest."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stepvault.catalog import Vault
from stepvault.errors import BackupTampered
from stepvault.records import Manifest, StoredObject

#: Objects read at a time; each holds two requests of 8 MiB.
AT_A_TIME = 4


def verify(
    vault: Vault,
    manifest: Manifest,
    progress: Callable[[str, int], None] = lambda name, done: None,
) -> list[str]:
    """Read every object of a backup and compare sizes and SHA-256, stored and raw.

    Args:
        vault: where the backup is.
        manifest: of the backup.
        progress: told of raw bytes as they are read, by name of the object.

    Returns:
        One line per object that is missing or not what was stored; empty for a whole backup.
    """
    stopped = threading.Event()

    def check(stored: StoredObject) -> str | None:
        try:
            for chunk in vault.read(manifest.source, manifest.run_id, stored):
                if stopped.is_set():
                    return None
                progress(stored.name, len(chunk))
        except BackupTampered as error:
            return error.message
        return None

    with ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="verify") as pool:
        try:
            return [wrong for wrong in pool.map(check, manifest.objects) if wrong is not None]
        except BaseException:  # Ctrl-C: an object of 100 GB is not read to its end first
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
