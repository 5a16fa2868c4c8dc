"""The engines: how each kind of source is read and restored. One module or folder each."""

from importlib import import_module
from typing import cast

from stepvault.engines.base import Engine
from stepvault.errors import SourceUnsupported
from stepvault.settings import engine_models

NAMES = tuple(engine_models())


def find(name: str) -> Engine:
    """Return the engine of that name; import it at first use, so that a function loads only its own.

    Raises:
        SourceUnsupported: there is no such engine (a backup of a newer Stepvault).
    """
    if name not in NAMES:
        raise SourceUnsupported(
            f"Unknown engine {name!r}; known are {', '.join(NAMES)}", "Update Stepvault"
        )
    return cast(Engine, import_module(f"stepvault.engines.{name}").engine)
