"""The block `base_policy.behaviour_cloning` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from world2act.core.params.section import Count, Section


class Parameters(Section):
    """`base_policy.behaviour_cloning`.

    Attributes:
        channels: of the convolutions; each of the first two halves the size of the image.
        dim, layers, heads: of the transformer.
        proprio_dropout: the share of training samples without proprioception. With it alone the network predicts much
            of the action and learns to ignore objects.
        map_dropout: the share of the numbers of the feature map that is dropped in training.
    """

    channels: list[Count] = Field(min_length=1)
    dim: Count
    layers: Count
    heads: Count
    proprio_dropout: Annotated[float, Field(ge=0, lt=1)]
    map_dropout: Annotated[float, Field(ge=0, lt=1)]
