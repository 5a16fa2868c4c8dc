"""From packs and indexes back to a directory; ``tasks`` begins, ``verify`` compares."""
