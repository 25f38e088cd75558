"""demos: parameters, ingested episodes → artifacts/demos, demonstrations and initial states (docs/artifacts.md)."""

from world2act.collection.demonstrations import make_demonstrations
from world2act.collection.ingested import open_ingested
from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, Metrics, run_stage
from world2act.core.storage import atomic_directory


def main(params: Params) -> Metrics:
    ingested = open_ingested() if params.demos.ingested else []
    with atomic_directory(ARTIFACTS / "demos") as directory:
        return make_demonstrations(params.demos, params.base.seed, params.base.workers, directory, ingested)


if __name__ == "__main__":
    run_stage("demos", main)
