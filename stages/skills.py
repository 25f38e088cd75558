"""skills: artifacts/demos → artifacts/skills, episodes divided into prompted skill clips (docs/artifacts.md)."""

from dataclasses import asdict

from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, METRICS, RUNS, Metrics, run_stage
from world2act.core.storage import atomic_directory
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.skills.boundaries import boundary_metrics
from world2act.skills.events import Calibration
from world2act.skills.language import Usage
from world2act.skills.providers import make_provider
from world2act.skills.segmentation import (
    DATASETS,
    leave_whole,
    metrics,
    save,
    save_length_plot,
    save_synchronised_plot,
    segment,
    synchronised_by_task,
)


def main(params: Params) -> Metrics:
    datasets = {name: EpisodeDataset.open(ARTIFACTS / "demos" / name) for name in DATASETS}
    if params.skills.divide:
        provider = make_provider(
            params.skills,
            journal=RUNS / "skills" / "answers.jsonl",
            finished=ARTIFACTS / "skills" / "transcripts.jsonl",
        )
        result, usage = segment(datasets, Calibration.of(params.skills), provider), provider.usage
    else:
        result, usage = leave_whole(datasets), Usage()
    measured = metrics(result) | boundary_metrics(datasets, result.skills)
    with atomic_directory(ARTIFACTS / "skills") as directory:
        save(result, directory)
    save_length_plot(result, METRICS / "skills" / "clip_lengths.csv")
    save_synchronised_plot(synchronised_by_task(result), METRICS / "skills" / "synchronised.csv")
    return measured | {"language": asdict(usage)}


if __name__ == "__main__":
    run_stage("skills", main)
