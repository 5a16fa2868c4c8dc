"""A terminal for the documents' commands."""

from pathlib import Path

import pytest

from stepvault.catalog import Vault
from tests.docs.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path, vault: Vault) -> Terminal:
    """A shell with an empty home, and the vault."""
    home = tmp_path / "home"
    home.mkdir()
    return Terminal(home, vault)
