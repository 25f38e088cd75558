"""Demonstrations that arrive in the store: found, validated, and made a new data version. `run.py` reads the whole."""
