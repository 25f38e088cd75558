"""validate <artifact>: artifacts/<artifact> → reports/gates/<artifact>.json and reports/data_docs/<artifact>.

A red gate exits with a status other than 0, so that nothing after it runs.
"""

import sys

from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, Metrics, run_stage
from world2act.gates.engine.validate import validate


def main(params: Params) -> Metrics:
    return validate(artifact, ARTIFACTS, params)


if __name__ == "__main__":
    artifact = sys.argv[1] if len(sys.argv) > 1 else ""
    run_stage(f"validate_{artifact}", main)
