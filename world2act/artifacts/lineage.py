"""Where an artifact comes from: its stages, their gates and every md5, read from dvc.yaml and dvc.lock."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import networkx as nx
from dvc.dependency import ParamsDependency
from world2act_client.manifest import LineageFile, LineageStage

from world2act.core.errors import BadInput
from world2act.core.params import PARAMS, read_yaml
from world2act.core.stage import ARTIFACTS, REPORTS

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

EVALUATION = (ARTIFACTS / "evaluate").as_posix()
"""The result that a policy which was compared with the incumbent is judged by, in addition to the gates."""


@dataclass(frozen=True)
class Lineage:
    """One artifact and every stage that it and its evaluation come from, upstream first.

    Attributes:
        out: the artifact, as DVC knows it.
        policy: the name under which `evaluate.policies` compares it with the incumbent; None if it does not.
        gates: artifact → its gate result ("demos" → reports/gates/demos.json).
    """

    root: Path
    out: Output
    policy: str | None
    stages: tuple[Stage, ...]
    gates: Mapping[str, str]

    @cached_property
    def outs(self) -> dict[str, Output]:
        """Every output of the stages by its path."""
        return {path_of(out, self.root): out for stage in self.stages for out in stage.outs}

    @cached_property
    def dependencies(self) -> set[str]:
        """Every path that a stage reads."""
        return {path_of(dep, self.root) for stage in self.stages for dep in _files_of(stage.deps)}

    def describe(self) -> list[LineageStage]:
        """The `lineage` entry of a manifest: stage, cmd, deps and outs with their md5 from dvc.lock."""
        return [
            {
                "stage": stage.addressing,
                "cmd": stage.cmd,
                "deps": self._hashes(_files_of(stage.deps)),
                "outs": self._hashes(stage.outs),
            }
            for stage in self.stages
        ]

    def _hashes(self, entries: Iterable[Output]) -> list[LineageFile]:
        hashes = {path_of(entry, self.root): entry.hash_info.value for entry in entries}
        return [{"path": path, "md5": md5} for path, md5 in sorted(hashes.items())]


def trace(repo: Repo, name: str) -> Lineage:
    """Find an artifact of dvc.yaml and the stages that it comes from, including their gates and its evaluation.

    Raises:
        BadInput: dvc.yaml has no such name under `artifacts:`, no stage writes it, or an artifact upstream has no gate.
    """
    root = Path(repo.root_dir)
    makers = {path_of(out, root): out for out in repo.index.outs}
    released = repo.artifacts.read().get("dvc.yaml", {})
    if name not in released:
        raise BadInput(
            "dvc.yaml",
            "artifacts",
            f"no {name!r}",
            f"one of {', '.join(sorted(released))}",
            "name one of these, or add yours to `artifacts:` in dvc.yaml",
        )
    path = released[name].path
    policy = _candidate(root, path)
    wanted = [path, EVALUATION] if policy else [path]
    for out in wanted:
        if out not in makers:
            raise BadInput("dvc.yaml", f"artifacts.{name}", out, "an output of a stage", "name an output of a stage")
    graph = repo.index.graph
    stages, gates = set(), {}
    queue = [makers[out].stage for out in wanted]
    while queue:
        stage = queue.pop()
        if stage in stages:
            continue
        stages.add(stage)
        queue.extend(graph.successors(stage))
        for artifact in _artifacts_of(stage, root):
            gates[artifact] = (REPORTS / "gates" / f"{artifact}.json").as_posix()
            if gates[artifact] not in makers:
                raise BadInput(
                    "dvc.yaml",
                    stage.addressing,
                    f"no stage writes {gates[artifact]}",
                    "a gate for every artifact",
                    f"add a stage validate_{artifact}",
                )
            queue.append(makers[gates[artifact]].stage)
    ordered = nx.lexicographical_topological_sort(graph.subgraph(stages).reverse(), key=lambda stage: stage.addressing)
    return Lineage(root, makers[path], policy, tuple(ordered), dict(sorted(gates.items())))


def refuse_stale(repo: Repo, lineage: Lineage) -> None:
    """Raise `BadInput` unless every stage of the lineage is up to date, as `dvc status` sees it."""
    changes = repo.status(targets=[stage.addressing for stage in lineage.stages])
    if not changes:
        return
    stage, found = next(
        (stage.addressing, changes[stage.addressing]) for stage in lineage.stages if stage.addressing in changes
    )
    others = f"; {len(changes) - 1} more stages are not" if len(changes) > 1 else ""
    raise BadInput(
        "dvc.lock",
        stage,
        f"{_in_words(found)}{others}",
        "a stage that is up to date",
        "run `world2act repro`, or `dvc pull` if another machine ran it",
    )


def _candidate(root: Path, path: str) -> str | None:
    """The name in `evaluate.policies` of the policy at `path`; None for the incumbent and other artifacts."""
    section = read_yaml(root / PARAMS).get("evaluate", {})
    policies, incumbent = section.get("policies"), section.get("incumbent")
    if not isinstance(policies, dict) or incumbent not in policies:
        found, expected = f"policies {policies}, incumbent {incumbent}", "named policies, one of them the incumbent"
        raise BadInput(root / PARAMS, "evaluate", found, expected, "compare with conf/profile/default.yaml")
    return next((name for name, folder in policies.items() if folder == path and name != incumbent), None)


def path_of(entry: Output, root: Path) -> str:
    """The path of an output or a dependency: POSIX, relative to the pipeline's root; as written when outside."""
    if not entry.is_in_repo:
        return entry.def_path
    return PurePath(os.path.relpath(entry.fs_path, root)).as_posix()


def _files_of(deps: Iterable[Output]) -> list[Output]:
    return [dep for dep in deps if not isinstance(dep, ParamsDependency)]


def _artifacts_of(stage: Stage, root: Path) -> list[str]:
    paths = [PurePath(path_of(out, root)) for out in stage.outs]
    return [path.name for path in paths if path.parent == ARTIFACTS]


def _in_words(changes: list[Any]) -> str:
    """[{"changed deps": {"a.py": "modified"}}, "changed command"] → "a.py modified, changed command"."""
    words = []
    for change in changes:
        if isinstance(change, str):
            words.append(change)
            continue
        for paths in change.values():
            words += [f"{path} {state if isinstance(state, str) else 'changed'}" for path, state in paths.items()]
    return ", ".join(words)
