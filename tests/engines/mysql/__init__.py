"""Tests of the MySQL engine against a real MariaDB."""
