"""What a run shows in Prefect's UI: a table of its stages, and for every stage its metrics, gate and a picture.

Artifacts are kept small: a picture is a JPEG of some kilobytes inside the artifact, so that the UI needs no other
server to show it.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from flows.outcome import GATE, GOOD, Outcome, StageRun
from world2act.core.stage import METRICS, REPORTS
from world2act.core.storage import read_json
from world2act.report.sources import Expectation, GateResult

GATE_FAILED_EVENT = "world2act.gate.failed"
_PICTURE_WIDTH = 800


def show_stage(run: StageRun) -> None:
    """Show what a stage wrote; for a red gate also emit the event `world2act.gate.failed`."""
    stage, artifact = run.stage, run.stage.removeprefix(GATE)
    if run.outcome in GOOD and not stage.startswith(GATE):
        _show_metrics(stage)
        if picture := _picture(stage):
            markdown = f"![{_caption(stage)}](data:image/jpeg;base64,{base64.b64encode(picture).decode()})"
            create_markdown_artifact(markdown, key=_key(f"{stage}-picture"), description=f"{stage}: {_caption(stage)}")
    result = REPORTS / "gates" / f"{artifact}.json"
    if stage.startswith(GATE) and result.exists():
        gate: GateResult = read_json(result)
        colour = "green" if gate["success"] else "red"
        create_markdown_artifact(
            render_gate(gate), key=_key(f"{artifact}-gate"), description=f"The gate on {artifact}: {colour}"
        )
        if run.outcome is Outcome.GATE_FAILED:
            emit_event(
                GATE_FAILED_EVENT,
                resource={"prefect.resource.id": f"world2act.artifact.{artifact}", "prefect.resource.name": artifact},
                payload={"failed": [_short(expectation) for expectation in _failed(gate)]},
            )


def _show_metrics(stage: str) -> None:
    path = METRICS / stage / "metrics.json"
    if path.exists():
        rows = [{"metric": name, "value": value} for name, value in _flat(read_json(path))]
        create_table_artifact(rows, key=_key(f"{stage}-metrics"), description=f"Metrics of {stage}")


def _flat(metrics: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in metrics.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows


def render_gate(gate: GateResult) -> str:
    """Markdown: every expectation of a gate, with failing rows and remedy for those that failed."""
    failed = _failed(gate)
    lines = [f"# {gate['artifact']}: {'green' if gate['success'] else 'red'}", ""]
    for check in failed:
        lines += [f"**{check['meaning']}**", "", f"- expected: {check['expected']}", f"- found: {_found(check)}"]
        lines += [f"- row: {row}" for row in check["failing_rows"]] + [f"- remedy: {check['remedy']}", ""]
    lines += ["| what | expected | found | rows |", "|---|---|---|---:|"]
    lines += [
        f"| {'' if check['success'] else '✗ '}{check['column']} of {check['table']} | {check['expected']} "
        f"| {_found(check)} | {check['rows']} |"
        for check in gate["expectations"]
    ]
    return "\n".join(lines)


def _found(expectation: Expectation) -> str:
    observed = expectation["observed"]
    if isinstance(observed, dict):
        return ", ".join(f"{name} {value:.4g}" for name, value in observed.items() if value is not None)
    return str(observed)


def _failed(gate: GateResult) -> list[Expectation]:
    return [expectation for expectation in gate["expectations"] if not expectation["success"]]


def _short(expectation: Expectation) -> dict[str, object]:
    shown = ("table", "column", "expected", "observed", "failing", "remedy")
    return {key: value for key, value in expectation.items() if key in shown}


def _curve(stage: str) -> Path:
    return METRICS / stage / "train" / "plots" / "metrics" / "loss.tsv"


def _strip(stage: str) -> Path | None:
    return min((REPORTS / stage).rglob("*.png"), default=None)


def _caption(stage: str) -> str:
    return "loss" if _curve(stage).exists() else "a preview"


def _picture(stage: str) -> bytes | None:
    """JPEG: the training curve of a stage that trains, else a preview that it wrote, else None."""
    if _curve(stage).exists():
        return _draw_curve(_curve(stage))
    strip = _strip(stage)
    return _shrink(strip) if strip else None


def _draw_curve(path: Path) -> bytes:
    from matplotlib.figure import Figure

    with path.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    figure = Figure(figsize=(6, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([int(row["step"]) for row in rows], [float(row["loss"]) for row in rows])
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    return _jpeg(figure.savefig)


def _shrink(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        image.thumbnail((_PICTURE_WIDTH, _PICTURE_WIDTH))
        return _jpeg(image.convert("RGB").save)


def _jpeg(save: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    save(stream, format="jpeg")
    return stream.getvalue()


def _key(name: str) -> str:
    return name.replace("_", "-").replace("/", "-").replace(".", "-").lower()


def render_table(runs: list[StageRun]) -> str:
    """Markdown: one row per stage with its state, seconds and its gate's state, then the reason for each failure."""
    by_stage = {run.stage: run for run in runs}
    rows = ["| stage | state | seconds | gate |", "|---|---|---:|---|"]
    for run in runs:
        if not run.stage.startswith(GATE):
            gate = by_stage.get(GATE + run.stage)
            where = f" on {run.where}" if run.where else ""
            rows.append(f"| {run.stage} | {run.outcome}{where} | {run.wall_s:.1f} | {gate.outcome if gate else ''} |")
    reasons = [f"**{run.stage}**\n\n```\n{run.message}\n```" for run in runs if run.message]
    return "\n\n".join(["\n".join(rows), *reasons])
