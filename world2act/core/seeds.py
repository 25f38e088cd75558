"""Where every random number comes from: a seed of its own for each thing that is drawn, derived from one base seed."""

from __future__ import annotations

import hashlib
import json


def derive(seed: int, *names: str | int) -> int:
    """The seed of what `names` name, under `seed`.

    Different names, or the same ones in another order, give unrelated seeds, and so do different values of `seed`:
    `derive(seed, "train")` at one base seed is never `derive(seed, "heldout")` at the next. A stage takes
    `derive(base_seed, STAGE)` and derives what it draws from that.

    Args:
        seed: a base seed, or one that was derived from it.
        names: what the random numbers are for, and which of them: `derive(seed, "epoch", 3)`.

    Returns:
        63 bits, so that torch, numpy and a signed column of 64 bits all take it.
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
