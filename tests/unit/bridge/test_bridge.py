"""Stage 1: time matching, masks, negatives, the objective against independent computations, and learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from world2act.bridge.adapters import Bridge
from world2act.bridge.contrast import Negatives, info_nce, similarity
from world2act.bridge.imagined import pair_seeds
from world2act.bridge.objective import BridgeObjective
from world2act.bridge.pairs import action_chunks, pad_pairs
from world2act.bridge.retrieval import retrieval_ranks, summarise
from world2act.core.errors import BadInput
from world2act.training.objective import BatchPosition, epoch_indices


def position(step: int = 0, rank: int = 0, ranks: int = 1, batch_size: int = 4) -> BatchPosition:
    return BatchPosition.of(0, step, batch_size * ranks, rank=rank, ranks=ranks)


def test_chunk_k_belongs_to_latent_k_plus_1() -> None:
    """Latent k >= 1 spans frames start+4k-3 .. start+4k, caused by actions start+4(k-1) .. start+4k-1."""
    actions = np.arange(30, dtype=np.float32)[:, None]
    start, end = 8, 20
    chunks = action_chunks(actions, start, end)
    frames = np.arange(start, end + 1)
    latents = [frames[:1], *(frames[4 * k - 3 : 4 * k + 1] for k in range(1, 4))]  # what a causal 4x VAE sees
    pairs = pad_pairs([np.stack([np.full((1, 1, 1), latent.max(), np.float32) for latent in latents])], [chunks], ["p"])
    for k in range(1, 4):
        last_frame = pairs.latents[0, k - 1].item()
        assert last_frame == latents[k].max()
        # action t leads to frame t + 1
        assert pairs.actions[0, k - 1].flatten().tolist() == [frame - 1 for frame in latents[k]]


def test_conditioning_latent_never_enters_a_pair() -> None:
    clip = np.stack([np.full((2, 1, 1), value, np.float32) for value in (99, 1, 2)])
    pairs = pad_pairs([clip], [np.ones((2, 4, 3), np.float32)], ["p"])
    assert 99 not in pairs.latents
    with pytest.raises(ValueError, match="do not match"):
        pad_pairs([clip], [np.ones((3, 4, 3), np.float32)], ["p"])


@pytest.mark.parametrize(("start", "end"), [(0, 0), (4, 10), (8, 4)])
def test_no_empty_or_ragged_clip(start: int, end: int) -> None:
    with pytest.raises(BadInput, match="a clip: frames"):
        action_chunks(np.zeros((20, 2), np.float32), start, end)


def test_similarity_is_chunk_wise_and_masks_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    video, action = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    expected = sum(float(v @ a / (v.norm() * a.norm())) for v, a in zip(video[:3], action[:3], strict=True)) / 3
    video[3:], action[3:] = 1e6, -1e6
    assert float(similarity(video, action, torch.tensor(5), torch.tensor(3))) == pytest.approx(expected, abs=1e-6)
    pooled = torch.nn.functional.cosine_similarity(video[:3].mean(0), action[:3].mean(0), dim=0)
    assert abs(expected - float(pooled)) > 1e-3


def test_info_nce_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    n, t, d, temperature = 6, 4, 8, 0.1
    video, action = torch.randn(n, t, d, generator=generator), torch.randn(n, t, d, generator=generator)
    lengths = torch.tensor([4, 3, 2, 4, 1, 3])
    anchors, negatives = torch.tensor([0, 3]), torch.tensor([[1, 2, 5], [4, 0, 1]])

    def cosine(i: int, j: int) -> float:
        steps = min(int(lengths[i]), int(lengths[j]))
        terms = [torch.nn.functional.cosine_similarity(video[i, s], action[j, s], dim=0).item() for s in range(steps)]
        return sum(terms) / steps

    total = 0.0
    for anchor, others in zip(anchors.tolist(), negatives.tolist(), strict=True):
        own = np.exp(cosine(anchor, anchor) / temperature)
        forward = sum(np.exp(cosine(anchor, j) / temperature) for j in others)
        backward = sum(np.exp(cosine(j, anchor) / temperature) for j in others)
        total += -np.log(own / (own + forward)) - np.log(own / (own + backward))
    found = info_nce(video, action, lengths, lengths, anchors, negatives, temperature)
    assert float(found) == pytest.approx(total / (2 * len(anchors)), rel=1e-4)


def test_negatives_honour_the_hard_ratio() -> None:
    groups = ["a"] * 5 + ["b"] * 6 + ["c"] * 7
    negatives = Negatives(groups, 0.25, 15, "here")
    assert (negatives.hard, negatives.easy) == (3, 9)
    generator = torch.Generator().manual_seed(0)
    for anchor, row in enumerate(negatives.draw(torch.arange(18), [generator] * 18).tolist()):
        assert anchor not in row
        assert len(set(row)) == len(row)
        assert sum(groups[i] == groups[anchor] for i in row) == negatives.hard


def test_missing_negatives_are_an_error_and_never_clones() -> None:
    with pytest.raises(BadInput, match="one episode of this group"):
        Negatives(["a", "a", "b"], 0.25, 8, "skills.parquet")
    with pytest.raises(BadInput, match="the only group"):
        Negatives(["a"] * 9, 0.25, 8, "skills.parquet")
    with pytest.raises(BadInput, match="hard_ratio"):
        Negatives(["a", "a", "b", "b"], 0.25, 8, "skills.parquet")


def test_epoch_indices_cover_the_set_and_part_between_ranks() -> None:
    seen = torch.cat([epoch_indices(12, position(step, rank, 2, 3), seed=5) for step in range(2) for rank in range(2)])
    assert sorted(seen.tolist()) == list(range(12))


def test_base_seeds_share_no_pair() -> None:
    """Held-out pairs of base seed s were once imagined from the same noise as the training pairs of s + 1."""
    seeds = [
        seed for base in range(5) for subset in ("train", "heldout") for seed in pair_seeds(base, subset, count=100)
    ]
    assert len(set(seeds)) == 1000


def synthetic(count: int = 48, length: int = 3) -> tuple[Bridge, BridgeObjective]:
    """Pairs whose latents carry the action, in four skills."""
    generator = np.random.default_rng(0)
    chunks = [generator.normal(size=(length + i % 2, 4, 2)).astype(np.float32) + i % 4 for i in range(count)]
    mixing = generator.normal(size=(8, 3 * 4 * 4)).astype(np.float32)
    latents = [
        np.concatenate([np.zeros((1, 3, 4, 4), np.float32), (c.reshape(len(c), 8) @ mixing).reshape(-1, 3, 4, 4)])
        for c in chunks
    ]
    pairs = pad_pairs(latents, chunks, [f"skill {i % 4}" for i in range(count)])
    torch.manual_seed(0)
    bridge = Bridge(latent_channels=3, action_dim=2, dim=16)
    return bridge, BridgeObjective(bridge, pairs, temperature=0.1, weight=1.0, hard_ratio=0.25, negatives=8, seed=0)


def test_padding_changes_nothing_in_the_loss() -> None:
    bridge, objective = synthetic()
    pairs, anchors, negatives = objective.batch(position())
    before, _ = objective.loss(bridge, (pairs, anchors, negatives), position())
    beyond = torch.arange(pairs.actions.shape[1]) >= pairs.lengths[:, None]
    assert beyond.any()
    pairs.actions[beyond], pairs.latents[beyond] = 7.0, -7.0
    after, _ = objective.loss(bridge, (pairs, anchors, negatives), position())
    assert torch.equal(before, after)


def test_bridge_learns_to_retrieve() -> None:
    bridge, objective = synthetic()
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=3e-3)

    def top1() -> float:
        return summarise(retrieval_ranks(bridge.eval(), objective._pairs))["retrieval_top1"]

    assert top1() < 0.25
    for step in range(150):
        loss, _ = objective.loss(bridge.train(), objective.batch(position(step, batch_size=16)), position(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert top1() > 0.75


def test_save_and_load_bit_equal_and_refuse_a_truncated_file(tmp_path: Path) -> None:
    bridge, _ = synthetic()
    bridge.save_pretrained(tmp_path)
    loaded = Bridge.from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in bridge.state_dict().items())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        Bridge.from_pretrained(tmp_path)
