"""The order in which test files start, as a plugin of pytest: the longest first, so that none ends alone."""

from __future__ import annotations

from collections import Counter

import pytest

# The first one makes `tiny_run`; the others that read it come when it is there.
FIRST = (
    "bad_input",
    "training",
    "survival",
    "infra_deepspeed",
    "flow",
    "flow_evaluate",
    "ingest",
    "release",
    "operations",
    "own_demonstrations",
    "e2e",
    "garbage",
    "world_model_page",
    "flow_ingest",
    "release_flows",
    "readme",
    "sharding",
    "ui",
    "skills_preview",
    "ingest_demos",
    "demos",
    "training_dry_run",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": index for index, name in enumerate(FIRST)}
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), -count[item.path], item.path))
