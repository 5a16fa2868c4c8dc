"""What goes to Lambda: the functions' code with the configuration, and the built layers."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from infra.settings import ROOT, SettingsError

CONFIG_NAME = "stepvault.json"


def functions(document: str) -> Path:
    """A folder with every handler and the configuration beside them."""
    handlers = sorted(p for p in (ROOT / "functions").glob("*.py") if p.name != "__init__.py")
    digest = hashlib.sha256(document.encode())
    for handler in handlers:
        digest.update(handler.name.encode() + b"\0" + handler.read_bytes())
    made = ROOT / "build" / "functions" / digest.hexdigest()[:16]
    if not made.is_dir():
        made.parent.mkdir(parents=True, exist_ok=True)
        # Two synths may come here at once: each fills a folder of its own, one rename wins.
        filling = Path(tempfile.mkdtemp(prefix=".filling-", dir=made.parent))
        for handler in handlers:
            shutil.copy(handler, filling)
        (filling / CONFIG_NAME).write_text(document, encoding="utf-8")
        try:
            filling.rename(made)
        except OSError:
            shutil.rmtree(filling)
    return made


def layer(name: str, architecture: str) -> Path:
    """The folder of a layer.

    Raises:
        SettingsError: it has not been built for that architecture.
    """
    if name == "core":
        return ROOT / "layers" / "core"
    built = ROOT / "build" / "layers" / f"{name}-{architecture}"
    if not built.is_dir():
        raise SettingsError(
            f"The layer {built.relative_to(ROOT)} has not been built: "
            f"run 'make layers ARCH={architecture}'"
        )
    return built
