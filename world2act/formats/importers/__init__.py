"""Demonstrations of other software in, canonical datasets out: one module a format, `run` for all of them."""
