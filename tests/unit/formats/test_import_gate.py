"""What is imported passes the gate of `demos`, and what says a lag that it has not does not."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.helpers.foreign import unpacked
from world2act.core.errors import BadInput, GateFailed
from world2act.core.params.gates import GateDemos
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.importers.run import import_dataset
from world2act.gates.demos import sources_table
from world2act.gates.engine.episodes import AlignmentMeasures, alignment_table, measure_alignment
from world2act.gates.engine.judge import find_failures, run_gate

LIMITS = GateDemos(contrast=5.0, change=1.0, motion_explained=0.5, scene_r2=0.7)


@pytest.fixture(scope="module")
def libero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libero")
    import_dataset(str(unpacked("libero", folder)), folder / "set")
    return folder / "set"


def test_imported_data_are_aligned_as_the_gate_measures_it(libero: Path) -> None:
    row = measure_alignment(EpisodeDataset.open(libero), range(4))
    assert row.onset_steps == 0 and row.explained > 0.9
    assert not find_failures("demos", [alignment_table(AlignmentMeasures, [row], ("episodes",), LIMITS)])


@pytest.mark.parametrize(("measured", "red"), [(1, False), (0, True), (None, True)])
def test_the_lag_recorded_must_be_the_one_measured(
    libero: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: int | None, red: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = EpisodeDataset.open(libero)
    recorded = dataset.info["world2act"]["alignment"] | {"measured_lag": measured}
    monkeypatch.setitem(dataset.info, "world2act", {"recorded": {"libero": recorded}})
    with pytest.raises(GateFailed, match="declared_lag") if red else nullcontext():
        run_gate("demos", [sources_table(dataset)])


def test_unnamed_axes_cannot_be_judged(libero: Path, tmp_path: Path) -> None:
    dataset = EpisodeDataset.open(libero)
    info = json.loads(json.dumps(dataset.info))
    info["features"]["action"]["names"][0] = "joint"
    dataset.features = info["features"]
    with pytest.raises(BadInput, match="world2act import --rename"):
        measure_alignment(dataset, range(4))
