"""Ingested episodes in artifacts/demos: they join training, and nothing that is held out changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.paths import ROOT
from tests.helpers.recordings import FIRST_SEED, episodes, params, values, write_upload
from world2act.collection.demonstrations import make_demonstrations, select_ingested
from world2act.collection.ingested import INDEX, IngestedDataset, LedgerRow, index_of
from world2act.core.errors import BadInput
from world2act.core.storage import sha256, write_json
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates.engine.validate import validate
from world2act.sims.scene_seeds import scene_seed
from world2act.sims.simulator import load_simulator
from world2act.skills.boundaries import true_boundaries


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> list[IngestedDataset]:
    folder = tmp_path_factory.mktemp("ingested")
    labelled = EpisodeDataset.open(write_upload(folder / "labelled", episodes(0, 1, 2)))
    video = EpisodeDataset.open(write_upload(folder / "video", episodes(3), video_only=True))
    return [IngestedDataset("labelled", labelled, [0, 2]), IngestedDataset("video_only", video, [0])]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain")
    make_demonstrations(params().demos, 0, 2, path)
    return path


@pytest.fixture(scope="module")
def joined(ingested: list[IngestedDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("joined") / "artifacts/demos"
    path.mkdir(parents=True)
    metrics = make_demonstrations(params().demos, 0, 2, path, ingested)
    assert (metrics["ingested_episodes"], metrics["ingested_left_out"]) == (3, 0)
    return path


def test_they_join_training_and_what_is_held_out_stays(plain: Path, joined: Path) -> None:
    for name, numbers in (("labelled", [0, 2]), ("video_only", [3])):
        before, after = EpisodeDataset.open(plain / name), EpisodeDataset.open(joined / name)
        added = len(numbers)
        assert before.splits == {"train": range(1), "heldout": range(1, 2)}
        assert after.splits == {"train": range(1 + added), "heldout": range(1 + added, 2 + added)}
        assert after.info["world2act"]["ingested"] == f"1:{1 + added}" and "ingested" not in before.info["world2act"]
        for old, new in ((0, 0), (1, 1 + added)):
            one, two = before.encoded(old), after.encoded(new)
            assert (one.seed, one.pngs) == (two.seed, two.pngs)
            for key, array in one.arrays.items():
                np.testing.assert_array_equal(array, two.arrays[key])
        for place, number in enumerate(numbers):
            episode = after.episode(1 + place)
            np.testing.assert_array_equal(episode["observation.images.corner2"], episodes(number)[0].images["corner2"])
            assert after.episodes[1 + place].seed == FIRST_SEED + number
            assert (episode["expert.phase"] == -1).all()  # nobody was asked
            assert true_boundaries(after, 1 + place) is None and true_boundaries(after, 0)
    name = "initial_states.parquet"
    assert sha256(plain / name) == sha256(joined / name)


def test_the_gate_stays_green(joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(joined.parents[1])
    opened = params()
    opened = opened.model_copy(
        update={
            "gates": opened.gates.model_copy(update={"demos": opened.gates.demos.model_copy(update={"scene_r2": -1e9})})
        }
    )
    validate("demos", Path("artifacts"), opened)


def test_what_is_tested_on_is_never_trained_on(tmp_path: Path) -> None:
    """Left out: scenes of another set or of the held-out part, and tasks that the pipeline does not have."""
    simulator, demos = load_simulator("metaworld"), params().demos
    kept = [scene_seed(0, "labelled", 0), FIRST_SEED, scene_seed(1, "test", 0)]
    other = [scene_seed(0, name, 0) for name in ("video_only", "post_training", "test")]
    heldout = [scene_seed(0, "labelled", index) for index in (1, 3)]  # its seed, and the one after a failed attempt
    recording = episodes(0)[0]
    every = [
        recording.__class__(recording.task, "", seed, recording.images, recording.arrays)
        for seed in kept + other + heldout
    ]
    every.append(recording.__class__("pick-place", "", FIRST_SEED, recording.images, recording.arrays))
    dataset = EpisodeDataset.open(write_upload(tmp_path / "upload", every))
    selected = select_ingested(
        [IngestedDataset("labelled", dataset, range(len(every)))], simulator, demos, 0, "labelled"
    )
    assert [dataset.episodes[index].seed for index in (episode.index for episode in selected)] == kept
    with pytest.raises(BadInput, match="image"):
        select_ingested(
            [IngestedDataset("labelled", dataset, [0])], simulator, params(image_size=64).demos, 0, "labelled"
        )


def test_the_stage_names_missing_data_and_can_do_without(tmp_path: Path) -> None:
    upload = LedgerRow("incoming/x", "z", 1, 1, "taken", "", "rules", 3, "labelled", "x", "y", [0], ["s"], 9)
    write_json(tmp_path / INDEX, index_of([upload]))

    def run_stage(**changes: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values(**changes)))
        command = [sys.executable, "-m", "stages.demos"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run_stage()
    assert done.returncode == 2 and "dvc pull data/ingested.dvc" in done.stderr and "version 3" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "artifacts/demos").exists()
    done = run_stage(ingested=False, tasks=["no-such-task"])  # it comes as far as the tasks
    assert done.returncode == 2 and "no-such-task" in done.stderr and "dvc pull" not in done.stderr
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert str(INDEX) in stages["demos"]["deps"] and "demos" in stages["demos"]["params"]
