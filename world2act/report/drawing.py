"""The pipeline as an inline SVG: the stages of dvc.yaml in layers, with time, memory and the state of their gates."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from world2act.report.sources import Stage
from world2act.report.wording import memory, seconds

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 106, 78, 24, 24, 2
_STATES = {
    "green": "gate green",
    "amber": "gate green, with warnings",
    "red": "gate red",
    "none": "no gate",
    "unknown": "not run",
}


def draw_pipeline(stages: Sequence[Stage]) -> Markup:
    """Draw the stages, with arrows from the stages that each of them needs directly."""
    layers = _layers(stages)
    rows = _rows(stages, layers)
    corners = {
        stage.name: (_MARGIN + layers[stage.name] * (_WIDTH + _GAP_X), _MARGIN + rows[stage.name] * (_HEIGHT + _GAP_Y))
        for stage in stages
    }
    width = max(x for x, _ in corners.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in corners.values()) + _HEIGHT + _MARGIN
    arrows = "".join(
        _arrow(corners[need], corners[stage.name]) for stage in stages for need in _direct_needs(stage, stages)
    )
    boxes = "".join(_box(stage, *corners[stage.name]) for stage in stages)
    return Markup(
        f'<svg class="pipeline" viewBox="0 0 {width} {height}" role="img" aria-label="the pipeline">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" class="head"/></marker></defs>{arrows}{boxes}</svg>'
    )


def _layers(stages: Sequence[Stage]) -> dict[str, int]:
    """Stage → how many stages come before it on its longest path."""
    needs = {stage.name: stage.needs for stage in stages}
    layers: dict[str, int] = {}

    def layer(name: str) -> int:
        if name not in layers:
            layers[name] = 1 + max((layer(need) for need in needs[name]), default=-1)
        return layers[name]

    for name in needs:
        layer(name)
    return layers


def _rows(stages: Sequence[Stage], layers: dict[str, int]) -> dict[str, int]:
    """Stage → row: a chain stays in one row; stages whose reader is several layers away come below all others."""
    rows: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    readers = {
        stage.name: [other for other in stages if stage.name in _direct_needs(other, stages)] for stage in stages
    }
    spans = {
        stage.name: range(
            layers[stage.name],
            min((layers[other.name] for other in readers[stage.name]), default=layers[stage.name] + 1),
        )
        for stage in stages
    }
    for stage in sorted(stages, key=lambda stage: (len(spans[stage.name]), layers[stage.name])):
        span = spans[stage.name]
        wanted = min((rows[need] for need in _direct_needs(stage, stages) if need in rows), default=0)
        row = next(r for r in range(wanted, wanted + len(stages)) if not any((column, r) in taken for column in span))
        rows[stage.name] = row
        taken |= {(column, row) for column in span}
    return rows


def _direct_needs(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """The stages that a stage needs, without those that another of them already depends on."""
    needs = {other.name: other.needs for other in stages}

    def upstream(name: str) -> set[str]:
        return {stage for need in needs[name] for stage in {need, *upstream(need)}}

    return [need for need in stage.needs if not any(need in upstream(other) for other in stage.needs)]


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0] - 1, end[1] + _HEIGHT / 2
    if y1 == y2:
        return f'<path class="arrow" d="M{x1} {y1}H{x2}" marker-end="url(#head)"/>'
    turn = x1 + _GAP_X / 2 if y2 > y1 else x2 - _GAP_X / 2 + 1
    return f'<path class="arrow" d="M{x1} {y1}H{turn}V{y2}H{x2}" marker-end="url(#head)"/>'


def _box(stage: Stage, x: int, y: int) -> str:
    if stage.name == "report":
        time, peak = "this page", ""
    elif stage.cost:
        time, peak = seconds(stage.cost["wall_s"]), memory(stage.cost["peak_memory_mib"])
    else:
        time, peak = "not run", ""
    gate = f"gate {seconds(stage.gate_s)}" if stage.gate_s is not None else _STATES[stage.state]
    lines = [
        f'<text class="name" x="{x + 10}" y="{y + 20}">{escape(stage.name)}</text>',
        f'<text x="{x + 10}" y="{y + 37}">{time}</text>',
        f'<text class="mute" x="{x + 10}" y="{y + 52}">{peak}</text>',
    ]
    if stage.has_gate:
        lines += [
            f'<circle class="dot {stage.state}" cx="{x + 14}" cy="{y + 64}" r="4"/>',
            f'<text class="mute" x="{x + 23}" y="{y + 67.5}">{escape(gate)}</text>',
        ]
    return (
        f"<g><title>{escape(stage.name)}: {escape(stage.description)} ({_STATES[stage.state]})</title>"
        f'<rect class="box {stage.state}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>'
        f"{''.join(lines)}</g>"
    )
