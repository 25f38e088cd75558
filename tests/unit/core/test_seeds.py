"""One derivation of seeds: stable, and without collisions."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from world2act.core.seeds import derive


def test_seeds_are_stable() -> None:
    """Artifacts keep their bytes from one version to the next."""
    assert derive(0) == 7520536977032167579
    assert derive(0, "tokenizer") == 3670581014376356291
    assert derive(7, "epoch", 3) == 6137592112203514467


def test_no_two_names_share_a_seed() -> None:
    seeds = {derive(seed, *names) for seed, *names in product(range(10), ("a", "b"), range(50), range(50))}
    seeds |= {derive(seed, name) for seed in range(10) for name in ("a", "b", "ab", "1", 1)}
    seeds |= {derive(seed, "a", "b") for seed in range(10)}
    assert len(seeds) == 10 * (2 * 50 * 50 + 5 + 1)


def test_torch_and_numpy_take_them() -> None:
    seeds = [derive(seed, "name") for seed in range(1000)]
    assert 2**60 < max(seeds) < 2**63
    np.testing.assert_array_equal(np.array(seeds, np.int64), seeds)
    assert torch.Generator().manual_seed(max(seeds)).initial_seed() == max(seeds)
    np.random.default_rng(max(seeds))
