"""Benchmarks of Stepvault against other tools; see README.md."""
