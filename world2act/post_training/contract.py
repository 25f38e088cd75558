"""The contract of a post-training method. A new method is one module and one profile; nothing else names it.

A method NAME is the module `world2act.post_training.NAME`, or the module that an installed package declares as the
entry point NAME of the group `world2act.post_training`. `post_train.method: NAME` selects it. It provides, in its
module or in submodules of the names in the left column:

    (itself)  SUMMARY, READS, HISTORY   `world2act.post_training.description.Description`
    params    Parameters                the class of `post_train.NAME` in params.yaml, a `Section`
              Limits                    the class of `gates.post_train.NAME`, a `Section`
    method    make_objective            `Method`
    policy    from_pretrained           opens what `PostTraining.save_policy` wrote, unless that is a policy of a family
                                        that exists already; config.json names the family
    gate      tables                    `world2act.gates.post_train.MethodGate`: what must hold of its policies

Submodules keep the reading of parameters quick, since `params` is then imported without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from world2act.core.errors import BadInput
from world2act.core.members import load_member
from world2act.core.params import Params
from world2act.core.params.post_training import ROOM
from world2act.training.objective import Objective


class PostTraining(Objective[Any], Protocol):
    """An objective whose model, once trained, is a better policy than the base policy that it started from."""

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the policy into an existing directory, complete in itself: config.json with `family`, `chunk_length`
        and `action_dim`, and `weights`, which are those of `model` after training."""


@runtime_checkable
class Method(Protocol):
    """The part `method` of a method."""

    def make_objective(self, params: Params, artifacts: Path) -> AbstractContextManager[PostTraining]:
        """The objective, and whatever it holds open while it trains, such as simulators.

        It is made on every rank, after the ranks have met (`world2act.training.ranks.initialise`).

        Args:
            params: its own block is `params.post_train.block(Parameters)`; `params.post_train.training` is read by
                the training loop.
            artifacts: the folder of the artifacts that it reads.

        Raises:
            BadInput: an artifact or a parameter does not fit; the message says which.
        """


def load_method(name: str) -> Method:
    """The part of a method that trains. Raises `BadInput` where there is no such method."""
    module = load_member(name, "method", "make_objective", [ROOM], "params.yaml", "post_train.method")
    if not isinstance(module, Method):
        raise BadInput(
            str(module.__name__), "", "no method", "make_objective", "see world2act/post_training/contract.py"
        )
    return module
