"""The section `post_train` of params.yaml and its gate's: one block per method, checked by the method's own classes."""

from __future__ import annotations

from typing import ClassVar

from world2act.core.params.base import Training
from world2act.core.params.blocks import Blocks

ROOM = "world2act.post_training"


class PostTrain(Blocks):
    """method: a module of world2act/post_training, or one that an installed package adds. Its block has its name."""

    ROOM: ClassVar[str] = ROOM
    CLASS: ClassVar[str] = "Parameters"
    KEY: ClassVar[str] = "method"

    method: str
    training: Training


class GatePostTrain(Blocks):
    """What must hold of a post-trained policy, one block per method."""

    ROOM: ClassVar[str] = ROOM
    CLASS: ClassVar[str] = "Limits"
