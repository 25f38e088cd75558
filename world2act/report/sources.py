"""What the report and the summary read: artifacts, gate results, metrics and timings in, plain values out."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import yaml

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, sha256

Curves = dict[str, list[tuple[int, float]]]


class Expectation(TypedDict):
    """One expectation in reports/gates/<name>.json; `world2act.gates.engine.judge.Record` has all of its keys."""

    table: str
    expectation: str
    column: str
    meaning: str
    success: bool
    severity: str
    observed: object
    expected: str
    rows: int
    failing: int
    failing_rows: list[Mapping[str, object]]
    remedy: str


class GateResult(TypedDict):
    """reports/gates/<name>.json."""

    artifact: str
    success: bool
    expectations: list[Expectation]


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml that makes something, and its gate.

    Attributes:
        needs: names of the stages whose artifacts it reads.
        cost: reports/timing/<name>.json: wall_s and peak_memory_mib; None before its first run.
        gate: reports/gates/<name>.json; None if there is no gate, or before its first run.
        gate_s: wall seconds of the gate; None in the same cases.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    has_gate: bool
    cost: dict[str, float] | None
    gate: GateResult | None
    gate_s: float | None

    @property
    def state(self) -> str:
        """green, amber (warnings), red, none (no gate) or unknown (not run)."""
        if not self.has_gate:
            return "none"
        if self.gate is None:
            return "unknown"
        if not self.gate["success"]:
            return "red"
        return "green" if all(record["success"] for record in self.gate["expectations"]) else "amber"


def read_stages(root: Path) -> list[Stage]:
    """The stages of dvc.yaml in its order, each together with its gate.

    Raises:
        BadInput: there is no dvc.yaml, or a result file is damaged.
    """
    path = root / "dvc.yaml"
    if not path.exists():
        raise BadInput(path, "", "no such file", "the pipeline", "run this in the root of the pipeline")
    graph = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    names = [name for name in graph if not name.startswith("validate_")]
    stages = []
    for name in names:
        read = {str(dep).split("/")[1] for dep in graph[name].get("deps", []) if str(dep).startswith("artifacts/")}
        gate_cost = _read(root / "reports/timing" / f"validate_{name}.json")
        stages.append(
            Stage(
                name=name,
                description=graph[name].get("desc", ""),
                needs=tuple(other for other in names if other in read),
                has_gate=f"validate_{name}" in graph,
                cost=_read(root / "reports/timing" / f"{name}.json"),
                gate=_read(root / "reports/gates" / f"{name}.json"),
                gate_s=gate_cost["wall_s"] if gate_cost else None,
            )
        )
    return stages


def read_curves(root: Path, stage: str) -> Curves:
    """The training curves of a stage: metric → (step, value) points. Raises `BadInput` when there are none."""
    folder = root / "metrics" / stage / "train/plots/metrics"
    curves = {}
    for table in sorted(folder.rglob("*.tsv")):
        metric = table.relative_to(folder).with_suffix("").as_posix()
        rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")), delimiter="\t")
        curves[metric] = [(int(row["step"]), float(row[table.stem])) for row in rows]
    if not curves:
        raise BadInput(folder, "", "no curve", "training curves", f"run the stage again: `dvc repro -f {stage}`")
    return curves


def read_clip_lengths(root: Path) -> dict[str, list[tuple[float, float]]]:
    """metrics/skills/clip_lengths.csv: what ("episodes", "skill clips") → (frames, share) points."""
    path = root / "metrics/skills/clip_lengths.csv"
    if not path.exists():
        raise BadInput(path, "", "nothing", "the lengths of clips", "run `dvc repro skills`")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    return {what: [(float(row["frames"]), float(row[what])) for row in rows] for what in list(rows[0])[1:]}


def read_params(root: Path) -> Mapping[str, Any]:
    """params.yaml, unchecked: the report must not fail on parameters of another version."""
    path = root / "params.yaml"
    if not path.exists():
        raise BadInput(path, "", "no such file", "the parameters in force", "run `world2act profile default`")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def lineage(root: Path, stages: list[Stage]) -> dict[str, str]:
    """The git revision, and the sha256 of every artifact."""
    artifacts = {stage.name: root / "artifacts" / stage.name for stage in stages}
    return {"git revision": git_revision(root)} | {
        f"artifacts/{name}": sha256(path) for name, path in artifacts.items() if path.exists()
    }


def git_revision(root: Path) -> str:
    """The current commit, and whether tracked files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown: git is not installed"
    commands = ([git, "rev-parse", "HEAD"], [git, "status", "--porcelain", "--untracked-files=no"])
    head, changes = (
        subprocess.run(command, cwd=root, capture_output=True, text=True, check=False) for command in commands
    )
    if head.returncode:
        return "unknown: not a git checkout"
    return head.stdout.strip() + (", with local changes" if changes.stdout.strip() else "")


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None
