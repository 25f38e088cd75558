"""The pipeline as an inline SVG: stages of dvc.yaml in layers, with time, memory and the state of their gates."""

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
    """Draw the stages, an arrow for every artifact read that is not read further up the same way."""
    layers = _layers(stages)
    rows = _rows(stages, layers)
    place = {
        stage.name: (_MARGIN + layers[stage.name] * (_WIDTH + _GAP_X), _MARGIN + rows[stage.name] * (_HEIGHT + _GAP_Y))
        for stage in stages
    }
    width = max(x for x, _ in place.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in place.values()) + _HEIGHT + _MARGIN
    arrows = "".join(
        _arrow(place[need], place[stage.name]) for stage in stages for need in _direct_needs(stage, stages)
    )
    boxes = "".join(_box(stage, *place[stage.name]) for stage in stages)
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
    """Stage → row: a chain stays in its row; those that wait several layers for their reader come below all others."""
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
    for stage in sorted(stages, key=lambda each: (len(spans[each.name]), layers[each.name])):
        span = spans[stage.name]
        wanted = min((rows[need] for need in _direct_needs(stage, stages) if need in rows), default=0)
        row = next(r for r in range(wanted, wanted + len(stages)) if not any((column, r) in taken for column in span))
        rows[stage.name] = row
        taken |= {(column, row) for column in span}
    return rows


def _direct_needs(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """What a stage needs, without what one of its other needs already depends on."""
    needs = {each.name: each.needs for each in stages}

    def above(name: str) -> set[str]:
        return {up for need in needs[name] for up in {need, *above(need)}}

    return [need for need in stage.needs if not any(need in above(other) for other in stage.needs)]


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
