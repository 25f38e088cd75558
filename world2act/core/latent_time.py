"""How frames become latents in time: the one place that knows the convention.

A clip of 4k + 1 frames has k + 1 latents. Latent 0 is the clip's first frame alone; latent k >= 1 spans its frames
4k - 3 .. 4k, and sees no later one. The actions 4(k - 1) .. 4k - 1 caused those frames, so that one chunk of four
actions belongs to every latent but the first. The factor is that of Wan's VAE, which the released Cosmos-Predict2
checkpoints were trained with; a VAE with another one is refused where it is opened.
"""

from __future__ import annotations

from world2act.core.errors import BadInput

FRAMES_PER_LATENT = 4


def latents_of(frames: int) -> int:
    """How many latents a clip of so many frames has. Raises `BadInput` where they are not 4k + 1."""
    if frames < 1 or (frames - 1) % FRAMES_PER_LATENT:
        raise BadInput("a clip", "frames", frames, "4k + 1", "cut clips on the 4-frame grid (skills stage)")
    return 1 + (frames - 1) // FRAMES_PER_LATENT


def frames_of(latents: int) -> int:
    """How many frames a clip of so many latents has."""
    return 1 + FRAMES_PER_LATENT * (latents - 1)


def floor_to_latent(frame: int) -> int:
    """The last frame up to this one that ends a latent, both counted from the start of their clip."""
    return frame // FRAMES_PER_LATENT * FRAMES_PER_LATENT


def last_frame_of(latent: int) -> int:
    """The last frame that a latent spans, both counted from the start of their clip."""
    return FRAMES_PER_LATENT * latent
