"""Measurements of this package: `common` is what they share, the README says which command makes which table."""
