"""The server's log: one JSON object per line on standard error. It never holds headers or observations."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

LOGGER = logging.getLogger("world2act.serving")


def log(event: str, **fields: object) -> None:
    """Log an event. `failed=True`, inside an `except` block, adds the traceback."""
    LOGGER.info(event, extra={"fields": fields}, exc_info=bool(fields.pop("failed", False)))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[0]:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Write all further events to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    # at lower levels it logs requests with their headers, which contain the key
    LOGGER.getChild("websockets").setLevel(logging.WARNING)
