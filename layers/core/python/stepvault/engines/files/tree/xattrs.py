"""Extended attributes, ACLs and capabilities among them, as far as they may be read."""

import errno
import os

#: What file systems without extended attributes answer, and what may not be read.
_NONE = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENODATA, errno.ENOSYS}

Xattrs = tuple[tuple[bytes, bytes], ...]


def xattrs_of(descriptor: int) -> Xattrs:
    """Return those of an open file."""
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno in _NONE:
            return ()
        raise
    return _values(descriptor, names, follow=True) if names else ()


def xattrs_at(directory: int, name: bytes, *, follow: bool = False) -> Xattrs:
    """Return those of an entry that is not opened, such as a link."""
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NONE:
            return ()
        raise
    return _values(path, names, follow=follow) if names else ()


def _values(where: int | bytes, names: list[str], *, follow: bool) -> Xattrs:
    values = []
    for name in sorted(names):
        try:
            value = os.getxattr(where, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _NONE:
                continue
            raise
        values.append((os.fsencode(name), value))
    return tuple(values)
