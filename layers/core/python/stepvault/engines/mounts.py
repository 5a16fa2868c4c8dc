"""Which file systems are shared with other hosts."""

import os
from pathlib import Path

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "glusterfs", "fuse.sshfs"}


def is_network(device: int, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the device (``st_dev``) is a network file system; EFS is nfs4.

    No memory is shared through one, as SQLite's WAL mode needs, and every file that is opened
    takes milliseconds of waiting.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except FileNotFoundError:  # not Linux: functions run on Linux
        return False
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted and after.split()[0] in _NETWORK:
            return True
    return False
