"""The report is one self-contained page that claims no more than the numbers support and never hides missing data."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers.gate_artifacts import TASKS, make_artifacts, make_params
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import compose
from world2act.core.storage import write_json
from world2act.evaluation.statistics import Difference
from world2act.evaluation.summary import Candidate, Summary
from world2act.films.video import write_video
from world2act.gates.engine.registry import gate_names
from world2act.gates.engine.validate import validate
from world2act.report.drawing import _direct_needs, draw_pipeline
from world2act.report.page import render
from world2act.report.sources import read_stages
from world2act.report.summary import print_summary
from world2act.report.wording import points, verdict

TRAINED = ("tokenizer", "world_model", "base_policy", "bridge", "post_train")


def make_pipeline_root(root: Path) -> Path:
    """The files that a whole run of the pipeline leaves, with the gates' good artifacts."""
    artifacts, rng = make_artifacts(root / "artifacts"), np.random.default_rng(0)
    shutil.copy(ROOT / "dvc.yaml", root)
    (root / "params.yaml").write_text(yaml.safe_dump(compose("default", ROOT)))
    for artifact in gate_names():
        validate(artifact, artifacts, make_params())
        write_json(root / "reports/timing" / f"{artifact}.json", {"wall_s": 12.5, "peak_memory_mib": 700.0})
        write_json(root / "reports/timing" / f"validate_{artifact}.json", {"wall_s": 4.2, "peak_memory_mib": 300.0})
    for stage in TRAINED:
        folder = root / "metrics" / stage / "train/plots/metrics"
        folder.mkdir(parents=True)
        lines = [f"{step}\t{2 / (1 + step)}" for step in range(12)]
        (folder / "loss.tsv").write_text("step\tloss\n" + "\n".join(lines) + "\n")
    counts = {
        "labelled_episodes": 20,
        "labelled_frames": 820,
        "video_only_episodes": 20,
        "video_only_frames": 820,
        "initial_states": 8,
    }
    write_json(root / "metrics/demos/metrics.json", counts | {"expert_failures": 1})
    write_json(root / "metrics/skills/metrics.json", {"clips": 78, "synchronised": 0.975, "median_clip_frames": 21.0})
    (root / "metrics/skills/clip_lengths.csv").write_text("frames,episodes,skill clips\n0,0.0,0.5\n8,1.0,0.5\n")
    strip = Image.fromarray(rng.integers(0, 255, (18, 80, 3), np.uint8))
    films = root / "reports/films"
    for name in ("world_model", "rollouts", "tokenizer"):
        (films / name).mkdir(parents=True)
        strip.save(films / name / "reach-episode-3.png")
    write_video(films / "world_model/reach-episode-3.mp4", rng.integers(0, 255, (4, 32, 32, 3), np.uint8), 10)
    for video in (artifacts / "evaluate/videos").glob("*.mp4"):
        write_video(video, rng.integers(0, 255, (4, 32, 32, 3), np.uint8), 10)
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return make_pipeline_root(root)


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return render(finished)


class _Links(HTMLParser):
    """Every attribute through which a page can load something, and every id and anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "poster", "data", "action") or (name == "href" and tag == "link"):
                self.loads.append(value or "")
            elif name in ("href", "xlink:href"):
                self.anchors.append(value or "")
            elif name == "id":
                self.ids.append(value or "")


def test_page_needs_nothing_but_itself(page: str) -> None:
    links = _Links()
    links.feed(page)
    assert links.loads and all(source.startswith("data:") for source in links.loads)
    assert all(anchor.startswith("#") for anchor in links.anchors)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert len(links.ids) == len(set(links.ids))
    assert {anchor[1:] for anchor in links.anchors} <= set(links.ids)


def test_page_shows_every_part(page: str) -> None:
    for heading in (
        "Pipeline",
        "Evaluation",
        "Imagination",
        "Alignment",
        "Training",
        "Data and skills",
        "Gates",
        "Parameters and lineage",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<video ") == 3 and page.count("data:video/mp4;base64,") == 3
    for part in (
        "As pictures",
        "Is the object where this scene has it?",
        "Drift over a chain of skills",
        "Where skills join",
    ):
        assert f"<h3>{part}" in page
    assert page.count('class="gate"') == len(gate_names())
    assert all(task in page for task in TASKS)
    assert "50%" in page and "75%" in page  # 2 and 3 of 4 test scenes
    assert "artifacts/world_model" in page and "post_train.training.learning_rate" in page


def test_page_is_the_same_twice(finished: Path, page: str) -> None:
    assert render(finished) == page


def test_charts_are_well_formed_and_follow_the_theme(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) >= 9
    for drawing in drawings:
        ElementTree.fromstring(drawing.replace("xlink:href", "href"))
    charts = [drawing for drawing in drawings if 'class="chart"' in drawing]
    assert all("var(--ink)" in chart or "var(--mute)" in chart for chart in charts)
    assert not any(re.search(r"#(0[1-6])\1\1", chart) for chart in charts)


@pytest.mark.parametrize(
    "missing",
    [
        "artifacts/evaluate/summary.json",
        "metrics/judge/tables/heldout.parquet",
        "reports/films/world_model/reach-episode-3.png",
        "metrics/judge/tables/chains.parquet",
        "metrics/judge/tables/positions.parquet",
        "metrics/bridge/train/plots/metrics/loss.tsv",
        "metrics/skills/clip_lengths.csv",
        "dvc.yaml",
        "params.yaml",
    ],
)
def test_a_missing_input_names_itself(finished: Path, tmp_path: Path, missing: str) -> None:
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    (root / missing).unlink()
    folder = missing if missing.endswith((".json", ".parquet", ".csv", ".yaml")) else str(Path(missing).parent)
    with pytest.raises(BadInput, match=re.escape(folder)):
        render(root)


def summary_with(low: float, difference: float, high: float) -> Summary:
    candidate = Candidate(Difference(60, difference, low, high), {}, promote=True, reason="")
    return Summary(0.95, "base", {}, {"post_train": candidate})


def test_verdict_claims_only_what_the_interval_allows() -> None:
    assert verdict(summary_with(0.02, 0.1, 0.18), "post_train")[0] == "better"
    assert verdict(summary_with(-0.2, -0.1, -0.01), "post_train")[0] == "worse"
    for low, difference, high in ((-0.03, 0.1, 0.22), (-0.2, -0.05, 0.0), (0.0, 0.05, 0.1)):
        kind, sentence = verdict(summary_with(low, difference, high), "post_train")
        assert kind == "noise" and "beyond noise" in sentence and points(difference) in sentence


def test_gate_states(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    path = root / "reports/gates/bridge.json"
    results = json.loads(path.read_text())
    results["expectations"][0] |= {"success": False, "severity": "warning"}
    write_json(path, results)
    write_json(
        root / "reports/gates/latents.json",
        json.loads((root / "reports/gates/latents.json").read_text()) | {"success": False},
    )
    (root / "reports/gates/evaluate.json").unlink()
    states = {stage.name: stage.state for stage in read_stages(root)}
    assert (states["bridge"], states["latents"], states["evaluate"], states["demos"], states["report"]) == (
        "amber",
        "red",
        "unknown",
        "green",
        "none",
    )


def test_drawing_is_the_graph_of_dvc_yaml(finished: Path) -> None:
    """Every stage is drawn, and its arrows lead, directly or through other stages, to everything that it reads."""
    graph = yaml.safe_load((finished / "dvc.yaml").read_text())["stages"]
    stages = read_stages(finished)
    arrows = {stage.name: _direct_needs(stage, stages) for stage in stages}

    def reached(name: str) -> set[str]:
        return {up for need in arrows[name] for up in {need, *reached(need)}}

    for stage in stages:
        read = {dep.split("/")[1] for dep in graph[stage.name]["deps"] if dep.startswith("artifacts/")}
        assert read <= reached(stage.name)
    drawing = draw_pipeline(stages)
    assert drawing.count("<rect") == len([name for name in graph if not name.startswith("validate_")])
    assert drawing.count('class="arrow"') == sum(map(len, arrows.values()))


def test_summary_names_stages_gates_numbers_and_the_report(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(
        finished / "metrics/evaluate/metrics.json",
        {"success_base": 0.5, "success_post_train": 0.75, "difference_post_train": 0.25},
    )
    (finished / "reports/report.html").write_text("a page")
    print_summary(finished)
    printed = capsys.readouterr().out
    assert all(artifact in printed for artifact in gate_names())
    assert "12 s" in printed and "green" in printed
    assert "No difference beyond noise" in printed and "reports/report.html" in printed
