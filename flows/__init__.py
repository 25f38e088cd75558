"""Prefect decides when and where stages run. Nothing imports this package.

The settings below are here because Prefect reads them when it is imported; the environment takes precedence.
"""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")
# an overloaded server answers 503: the client tries again with delays of 2, 4, 8, ... 64 s, two minutes in all
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "6")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
