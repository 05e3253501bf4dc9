"""Small helpers for all other subpackages; they do not depend on models, data or boards."""
