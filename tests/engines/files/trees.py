"""Trees to back up, and what a tree holds, read by other means than the engine's."""

import os
import socket
import stat
import subprocess
from pathlib import Path
from random import Random
from typing import Any

from stepvault.settings import FilesSource


def source(path: Path, **settings: Any) -> FilesSource:
    return FilesSource(name="tree", engine="files", path=str(path), **settings)


def lifelike(root: Path, files: int = 200, seed: int = 1) -> None:
    """Nested folders of small text-like files, a few larger ones, links and an empty folder."""
    random = Random(seed)
    words = [random.randbytes(random.randint(2, 9)).hex() for _ in range(500)]
    root.mkdir()
    for n in range(files):
        folder = root / f"d{n % 7}" / f"e{n % 11}"
        folder.mkdir(parents=True, exist_ok=True)
        text = " ".join(random.choices(words, k=random.randint(0, 4000)))
        (folder / f"file-{n}.txt").write_text(text)
    (root / "large.bin").write_bytes(random.randbytes(3 << 20) + bytes(2 << 20))
    (root / "d0" / "link").symlink_to("e0")
    (root / "empty").mkdir()
    for n, path in enumerate(sorted(root.rglob("*"))):
        if not path.is_symlink():
            os.utime(path, ns=(0, 1_600_000_000_123_456_789 + n))
    os.utime(root, ns=(0, 1_500_000_000_000_000_001))


def nasty(root: Path) -> None:
    """Everything that has ever broken an archiver."""
    root.mkdir()
    at = os.fsencode(root)

    def put(name: bytes, data: bytes = b"content\n") -> bytes:
        path = at + b"/" + name
        with open(path, "wb") as file:
            file.write(data)
        return path

    for name in (
        b"new\nline",
        b"tab\there",
        b"percent%0A",
        b"back\\slash",
        b" lead",
        b"-rf",
        b"'q\"",
        b"Icon\r",
        b"\x0b\x0c\x1c\x85",
    ):
        put(name)
    put(b"bytes\xff\xfe")
    put("ünïcödé 🌍".encode())
    put(b"n" * 255)
    put(b"\xf0" * 200)
    put(b"empty", b"")
    put(b"block", b"b" * 512)
    put(b"almost", b"b" * 511)
    put(b"just-over", b"b" * 513)
    deep = at
    for n in range(60):
        deep += b"/" + b"deep%03d" % n + b"x" * 40
        os.mkdir(deep)
    with open(deep + b"/bottom", "wb") as file:
        file.write(b"bottom\n")
    (root / "empty-dir").mkdir()
    (root / "shut").mkdir(mode=0o500)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    os.chmod(put(b"setuid"), 0o4755)
    os.chmod(put(b"no-rights"), 0o000)
    os.chown(put(b"somebody's"), 4_000_000_000, 3_000_000)
    os.utime(put(b"before-1970"), ns=(0, -1_500_000_001))
    os.utime(put(b"far"), ns=(0, 9_999_999_999_999_999_999 // 10 * 9))
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.symlink(b"bad\xff\ntarget" + b"y" * 150, at + b"/long-link")
    os.link(put(b"one-name"), at + b"/another-name")
    (root / "sub").mkdir()
    os.link(at + b"/one-name", at + b"/sub/third-name")
    with (root / "holes").open("wb") as file:
        file.truncate(10 << 20)
        for offset in (0, 1 << 20, (5 << 20) + 4096):
            file.seek(offset)
            file.write(b"data" * 1024)
    with (root / "all-hole").open("wb") as file:
        file.truncate(50 << 20)
    (root / "large").write_bytes(Random(7).randbytes(5 << 20))
    os.setxattr(put(b"attributes"), b"user.note", b"bin\0ary")
    os.setxattr(at + b"/attributes", b"user.with=equals", b"1")
    acl = put(b"acl")
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:4321:r", acl], check=True)
    (root / "default-acl" / "child").mkdir(parents=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", root / "default-acl"], check=True)
    os.utime(root / "sub", ns=(0, 1_111_111_111_111_111_111))
    os.utime(root, ns=(0, 1_222_222_222_222_222_222))


def specials(root: Path) -> None:
    """A socket, a pipe and a device."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "socket"))
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def rsync_difference(one: Path, two: Path) -> str:
    """What rsync would do to make two equal to one: nothing, if they are."""
    done = subprocess.run(
        ["rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", f"{one}/", f"{two}/"],
        check=True,
        capture_output=True,
    )
    return done.stdout.decode(errors="backslashreplace")


def unpack_with_tar(packs: list[Path], target: Path) -> None:
    """What somebody without Stepvault does; packs in the order of their names."""
    target.mkdir()
    for pack in sorted(packs):
        subprocess.run(
            ["tar", "--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", pack],
            cwd=target,
            check=True,
        )
