"""What DVC reports about the pipeline: its graph, which stages are up to date, and which only lack their data here."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import networkx as nx
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage

# DVC's Repo is not thread-safe, and the tasks of a flow are threads
_one_at_a_time = threading.Lock()


class Standing(Enum):
    """What DVC reports about a stage and everything upstream of it."""

    CURRENT = "nothing changed and every output is here"
    ABSENT = "nothing changed, but data is missing here"
    CHANGED = "something changed, or DVC could not say yet"


@contextmanager
def open_repository() -> Iterator[Repo]:
    """The DVC repository of the current folder, with DVC's lock held."""
    with _one_at_a_time, Repo(_wait_for_lock=True) as repository, repository.lock:
        yield repository


def read_graph(target: str | None = None) -> dict[str, list[str]]:
    """Every stage and the stages that it reads from, as DVC resolves dvc.yaml; upstream stages come first.

    Args:
        target: keep only this stage and what it needs.

    Raises:
        KeyError: dvc.yaml has no stage of that name.
    """
    with _one_at_a_time, Repo() as repository:
        graph = nx.relabel_nodes(repository.index.graph, lambda stage: stage.addressing)
        graph.add_edges_from(_read_through_an_index(repository, graph))
    if target is not None:
        if target not in graph:
            raise KeyError(f"no stage {target!r} in dvc.yaml; it has {', '.join(sorted(graph))}")
        graph = graph.subgraph({target} | nx.descendants(graph, target))
    return {stage: sorted(graph[stage]) for stage in nx.lexicographical_topological_sort(graph.reverse())}


def _read_through_an_index(repository: Repo, graph: nx.DiGraph) -> list[tuple[str, str]]:
    """A stage that depends on data/X.json reads the data that it is the index of: data/X, by data/X.dvc."""
    deps = ((stage.addressing, Path(dep.def_path)) for stage in repository.index.stages for dep in stage.deps)
    edges = [(name, path.with_suffix(".dvc").as_posix()) for name, path in deps if path.suffix == ".json"]
    return [(name, pointer) for name, pointer in edges if pointer in graph]


def standings(graph: Mapping[str, list[str]]) -> dict[str, Standing]:
    """Ask DVC about every stage of a graph, upstream first. A stage downstream of a changed one counts as changed.

    `dvc repro` checks the same before it runs a stage. In one process the answer for all stages takes half a second;
    one process per stage would take half a second for each.
    """
    answers: dict[str, Standing] = {}
    with open_repository() as repository:
        stages = {stage.addressing: stage for stage in repository.index.stages}
        for name, upstream in graph.items():
            before = {answers[stage] for stage in upstream}
            if Standing.CHANGED in before:
                answers[name] = Standing.CHANGED
            else:
                found = _standing(stages[name], [stages[stage] for stage in upstream])
                answers[name] = Standing.ABSENT if found is Standing.CURRENT and Standing.ABSENT in before else found
    return answers


def is_current(stage: str) -> bool:
    """Whether DVC would skip this stage now."""
    return standings({stage: []})[stage] is Standing.CURRENT


def _standing(stage: Stage, upstream: list[Stage]) -> Standing:
    try:
        if not stage.changed():
            return Standing.CURRENT
        return Standing.CHANGED if stage.changed(allow_missing=True, upstream=upstream) else Standing.ABSENT
    except LockError:  # another DVC process writes there: the one that is to run the stage waits for it
        return Standing.CHANGED
