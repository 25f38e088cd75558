"""skills: artifacts/demos → artifacts/skills, episodes divided into prompted skill clips (docs/artifacts.md)."""

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.params import Params
from world2act.skills.schema import SchemaProvider
from world2act.skills.segmentation import DATASETS, metrics, save, save_length_plot, segment
from world2act.stage import ARTIFACTS, METRICS, Metrics, run_stage
from world2act.storage import atomic_directory


def main(params: Params) -> Metrics:
    datasets = {name: EpisodeDataset.open(ARTIFACTS / "demos" / name) for name in DATASETS}
    result = segment(datasets, params.skills.contact, SchemaProvider(params.skills.schema_file))
    with atomic_directory(ARTIFACTS / "skills") as directory:
        save(result, directory)
    save_length_plot(result, METRICS / "skills" / "clip_lengths.csv")
    return metrics(result)


if __name__ == "__main__":
    run_stage("skills", main)
