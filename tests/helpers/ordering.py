"""The order in which test files start, the longest first so that none ends alone, and which tests are costly."""

from __future__ import annotations

from collections import Counter

import pytest

# The first one makes `tiny_run`; the others that read it come when it is there.
FIRST = (
    "bad_input",
    "training",
    "types",
    "survival",
    "infra_deepspeed",
    "flow",
    "flow_check_release",
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


# Tests that ask for these wait for a server, and so do not belong to `make test-fast`.
_SERVERS = {"service", "prefect_server", "s3", "tiny_run"}
# Unit tests that take longest for other reasons: simulators, ranks and stages as processes, Great Expectations.
_COSTLY = {
    "test_clips_garbage",
    "test_behaviour_cloning",
    "test_client_package",
    "test_demos",
    "test_gates",
    "test_gr00t_training",
    "test_ingest_demos",
    "test_import_s3",
    "test_language_models",
    "test_latents_stage",
    "test_launch",
    "test_lerobot_plugin",
    "test_libero",
    "test_metaworld",
    "test_pool",
    "test_quality",
    "test_remote",
    "test_remote_gr00t",
    "test_recorded",
    "test_report",
    "test_residual",
    "test_serving_command",
    "test_simulator_process",
    "test_skills_boundaries",
    "test_skills_preview",
    "test_tiling",
    "test_training",
    "test_training_dry_run",
    "test_types",
    "test_view",
    "test_weights_hub",
}


@pytest.hookimpl(tryfirst=True)  # before pytest's own selection by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in _COSTLY or _SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("costly")
    order = {f"test_{name}": index for index, name in enumerate(FIRST)}
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), -count[item.path], item.path))
