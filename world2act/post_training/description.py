"""What a post-training method says about itself. Importing this module, or a description, does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from world2act.core.errors import BadInput
from world2act.core.members import load_member
from world2act.core.params.post_training import ROOM


@dataclass(frozen=True)
class Curve:
    """One metric of a method's training, kept in the policy's history.parquet.

    Attributes:
        name: the key of the metric in `Objective.loss`, and the column of the table.
        title: the panel of the report that shows it; curves of one title share a panel.
        label: its name in that panel.
        first: whether the metrics of the stage also have the first value, as `<name>_first`.
    """

    name: str
    title: str
    label: str
    first: bool = False


@runtime_checkable
class Description(Protocol):
    """The module of a method: `world2act.post_training.<method>`, or an installed package's.

    Attributes:
        SUMMARY: the method in one line, for the model card.
        READS: the artifacts that it reads, for the lineage in the model card. All of them are dependencies of the
            stage post_train in dvc.yaml.
        HISTORY: the metrics of its objective that are kept, besides the loss.
    """

    SUMMARY: str
    READS: tuple[str, ...]
    HISTORY: tuple[Curve, ...]


def describe_method(name: str) -> Description:
    """The description of a method. Raises `BadInput` where there is no such method, or it lacks a part of it."""
    module = load_member(name, "", "SUMMARY", [ROOM], "params.yaml", "post_train.method")
    if not isinstance(module, Description):
        remedy = "add them: see world2act/post_training/description.py"
        raise BadInput(str(module.__name__), "", "an incomplete method", "SUMMARY, READS and HISTORY", remedy)
    return module
