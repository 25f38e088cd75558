"""The commands that a page of the documentation shows."""

from __future__ import annotations

import re


def shell_commands(page: str) -> list[str]:
    """The lines of its `sh` blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


# Commands of the operations page and of README that another test runs, and which.
RUN_ELSEWHERE = {
    "make serve": "tests/operations/test_serve.py",
    "pip install ./client": "tests/unit/client/test_client_package.py, and infra/setup.sh",
    "python -m flows.pipeline": "tests/fixtures/pipeline_run.py, tiny_run",
    "python -m flows.pipeline --target rollouts": "tests/pipeline/test_readme.py",
}


def team_commands(page: str) -> list[str]:
    """The commands of a page that no other test runs."""
    return [line for line in shell_commands(page) if line not in RUN_ELSEWHERE]
