"""Build the layer of third-party wheels for one architecture, without Docker.

uv fetches the hashed wheels for the function's platform (Amazon Linux 2023, glibc 2.34),
whatever this machine is. They are byte-compiled with hash-based marks, because a zip
loses the times that Python would otherwise compare: a cold start then compiles nothing.

    python layers/deps/build.py --arch arm64 --out build/layers/deps-arm64
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PLATFORMS = {"arm64": "aarch64-manylinux_2_34", "x86_64": "x86_64-manylinux_2_34"}
PYTHON = "3.13"


def build(arch: str, out: Path) -> bool:
    """Fill ``out`` with the layer; False if it was there already, made from the same lock."""
    stamp = out.with_name(f"{out.name}.sha256")
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    if out.is_dir() and stamp.is_file() and stamp.read_text() == wanted:
        return False
    shutil.rmtree(out, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    command = [
        _uv(), "pip", "install", "--quiet", "--require-hashes", "--compile-bytecode",
        "--python", sys.executable, "--python-platform", PLATFORMS[arch], "--python-version", PYTHON,
        "--only-binary", ":all:", "--target", str(out / "python"), "-r", str(REQUIREMENTS),
    ]  # fmt: skip
    subprocess.run(
        command, check=True, env=os.environ | {"PYC_INVALIDATION_MODE": "UNCHECKED_HASH"}
    )
    shutil.rmtree(out / "python" / "bin", ignore_errors=True)
    stamp.write_text(wanted)
    return True


def _uv() -> str:
    ours = ROOT / "build" / "uv" / "bin" / "uv"
    found = str(ours) if ours.is_file() else shutil.which("uv")
    if found is None:
        sys.exit("layers/deps/build.py: uv is missing; `make setup` installs it into build/uv")
    return found


def main() -> None:
    """Build the layer that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--arch", choices=sorted(PLATFORMS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        build(given.arch, given.out)
    except subprocess.CalledProcessError as error:
        sys.exit(f"layers/deps/build.py: uv could not install the wheels (exit {error.returncode})")


if __name__ == "__main__":
    main()
