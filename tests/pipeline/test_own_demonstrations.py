"""The commands of docs/demonstrations.md and of README's part of it, in order, after a real run; then the pipeline."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from tests.helpers.clone import Clone
from tests.helpers.pages import team_commands
from tests.helpers.paths import ROOT
from world2act.core.params import Skills
from world2act.core.params.skills import LocalModel, OpenAIEndpoint
from world2act.core.storage import read_json
from world2act.data.lerobot_v3 import EpisodeDataset

SOURCE = "path/to/demonstrations"


@pytest.fixture
def clone(tiny_run: Clone, tmp_path: Path) -> Clone:
    """A copy of the run, beside what another robot recorded: its own episodes, as another software has them."""
    copy = tiny_run.copy(tmp_path / "a copy")
    for name in ("labelled", "video_only"):
        copy.must("world2act", "export", f"artifacts/demos/{name}", f"robot/{name}")
    return copy


def run(clone: Clone, line: str) -> str:
    return clone.must(*shlex.split(line.replace(SOURCE, "robot/labelled")))


def test_language_settings_of_the_page_are_valid() -> None:
    page = (ROOT / "docs/demonstrations.md").read_text()
    settings = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["skills"]
    assert OpenAIEndpoint.model_validate(settings["openai"]).key_variable == "DEEPSEEK_API_KEY"
    assert LocalModel.model_validate(settings["transformers"]).device == "cpu"
    assert settings.keys() <= Skills.model_fields.keys()


@pytest.mark.timeout(900)
def test_commands_of_the_pages_and_the_pipeline_on_what_they_imported(clone: Clone) -> None:
    """Those of docs/demonstrations.md, then those that README alone has."""
    section = (ROOT / "README.md").read_text().split("## Your own demonstrations")[1].split("\n## ")[0]
    lines = [*team_commands((ROOT / "docs/demonstrations.md").read_text()), *team_commands(section)]
    shown = {line: run(clone, line) for line in dict.fromkeys(lines)}
    assert "10 episodes" in shown[f"world2act import {SOURCE} data/recorded/mine"]
    assert (clone.root / "data/recorded/mine.dvc").exists() and len(team_commands(section)) == 4
    assert read_json(clone.root / "exported-v3/meta/info.json")["codebase_version"] == "v3.0"
    assert (clone.root / "exported-v2/meta/modality.json").exists()
    for name in ("skills_preview", "mine"):
        assert "<html" in (clone.root / f"reports/{name}.html").read_text()

    clone.must("world2act", "import", "robot/video_only", "data/recorded/video")
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    params["demos"]["recorded"] = ["mine", "video"]
    (clone.root / "params.yaml").write_text(yaml.safe_dump(params))
    clone.must("dvc", "repro", "validate_skills")
    labelled = EpisodeDataset.open(clone.root / "artifacts/demos/labelled")
    assert labelled.info["world2act"]["recorded"].keys() == {"mine"}
    assert labelled.splits == {"train": range(6), "heldout": range(6, 10)}
    metrics = read_json(clone.root / "metrics/skills/metrics.json")
    assert metrics["synchronised"] == 1 and "boundary_f1_5" not in metrics, "a recording knows no phases"
