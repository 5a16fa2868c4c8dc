"""Real database servers on this machine, each a context manager."""
