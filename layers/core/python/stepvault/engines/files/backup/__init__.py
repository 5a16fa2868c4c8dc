"""From a source to packs and indexes; ``plan`` begins, ``snapshot`` opens one unit."""
