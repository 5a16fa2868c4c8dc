"""What goes to Lambda: the functions' code with the configuration, and the layers.

Our own code goes byte-compiled, like the wheels: Lambda's folders are read-only, so each cold
start would compile it again. A zip loses the times that Python would compare, so the bytecode
is used unchecked; it can never be stale, because each synth copies and compiles afresh.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.settings import ROOT, SettingsError

CONFIG_NAME = "stepvault.json"
#: Whose bytecode the functions' Python reads. Another Python's is left out.
CACHE_TAG = "cpython-313"
CORE = ROOT / "layers" / "core"


def functions(document: str) -> Path:
    """Make a folder with every handler and the configuration beside them."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        for handler in (ROOT / "functions").glob("*.py"):
            if handler.name != "__init__.py":
                shutil.copy(handler, folder)
        (folder / CONFIG_NAME).write_text(document, encoding="utf-8")

    return _compiled("functions", "/var/task", fill)


def core() -> Path:
    """Make the core layer as it goes to Lambda: a compiled copy."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    return _compiled(
        "layers/core", "/opt", lambda folder: shutil.copytree(CORE, folder, ignore=ignore)
    )


def _compiled(kind: str, place: str, fill: Callable[[Path], object]) -> Path:
    """Compile what ``fill`` makes for its place on Lambda, in a folder named by its content."""
    home = ROOT / "build" / kind
    home.mkdir(parents=True, exist_ok=True)
    # Two synths may come here at once: each fills a folder of its own, one rename wins.
    with tempfile.TemporaryDirectory(prefix=".filling-", dir=home) as scratch:
        filled = Path(scratch) / "filled"
        fill(filled)
        if sys.implementation.cache_tag == CACHE_TAG:
            _compile(filled, place)
        made = home / _digest(filled)
        try:
            filled.rename(made)
        except OSError:
            if not made.is_dir():
                raise
    return made


def _compile(folder: Path, place: str) -> None:
    words = "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-d", place, str(folder)
    # By a process of its own, with hashes that are not random: what else this one has in memory
    # shows in the bytecode, and the same sources would have another name at each deploy.
    done = subprocess.run(
        [sys.executable, "-m", *words], env={**os.environ, "PYTHONHASHSEED": "0"}, check=False
    )
    if done.returncode:
        raise SettingsError(
            "A module that goes to Lambda cannot be compiled; Python's words are above"
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def layer(name: str, architecture: str) -> Path:
    """Find the folder of a layer, as the emulator uses it in place.

    Raises:
        SettingsError: it has not been built for that architecture.
    """
    if name == "core":
        return CORE
    built = ROOT / "build" / "layers" / f"{name}-{architecture}"
    if not built.is_dir():
        raise SettingsError(
            f"The layer {built.relative_to(ROOT)} has not been built: "
            f"run 'make layers ARCH={architecture}'"
        )
    return built
