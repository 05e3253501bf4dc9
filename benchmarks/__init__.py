"""Benchmarks of this package: `common` holds shared code, the README lists the command of each table."""
