"""The fixtures that every test may ask for, by what they need. The environment comes first: libraries read it early."""

pytest_plugins = [
    "tests.helpers.environment",
    "tests.helpers.ordering",
    "tests.fixtures.shared",
    "tests.fixtures.prefect",
    "tests.fixtures.s3",
    "tests.fixtures.pipeline_run",
    "tests.fixtures.gate_artifacts",
    "tests.fixtures.release_pipeline",
]
