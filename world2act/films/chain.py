"""A chain of skills to look at: recorded frames above imagined ones, the prompts, and a progress bar.

In: imagined latents, and the recording where there is one. Out: an mp4 that plays at no more than 15 frames a second,
and a PNG strip of the same for where nothing plays.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from world2act.films.strip import save_strip
from world2act.films.video import write_video
from world2act.world_model.parts.guardrail import Guardrail
from world2act.world_model.parts.tokenizer import VideoTokenizer

_SIDE, _LABEL, _HEAD, _MARGIN = (
    256,
    24,
    80,
    8,
)  # pixels; players cover the lower edge: words go on top
_MOST_FPS = 15
_PAPER, _INK, _MUTE, _SOFT, _ACCENT = (246, 247, 249), (23, 32, 44), (93, 106, 123), (205, 212, 220), (15, 138, 126)


def film_chain(
    stem: Path,
    tokenizer: VideoTokenizer,
    guardrail: Guardrail,
    prompts: Sequence[str],
    latents: Sequence[np.ndarray],
    recorded: np.ndarray | None,
    fps: int,
    given: int = 1,
) -> None:
    """Write `stem`.mp4 and `stem`.png.

    Args:
        latents: float32 (T, C, h, w) per skill, each starting from the frame at which the previous one ended.
        recorded: uint8 (frames, H, W, 3), as long as the skills together; None for what was only imagined.
        given: the number of frames at the start of a skill that repeat the end of the previous one.
        fps: of the recording, or of what the world model was trained on.

    Raises:
        BadInput: the guardrail refuses a prompt.
    """
    guardrail.check(prompts)
    skills = [guardrail.show(tokenizer.decode(torch.from_numpy(np.array(clip)[None])))[0] for clip in latents]
    imagined = np.concatenate([skills[0], *(skill[given:] for skill in skills[1:])])
    rows = {"imagined": imagined} if recorded is None else {"recorded": recorded, "imagined": imagined}
    ends = np.cumsum([len(skills[0]) - 1, *(len(skill) - given for skill in skills[1:])]).tolist()
    drawn = [
        _draw({name: video[i] for name, video in rows.items()}, prompts, ends, i, fps) for i in range(len(imagined))
    ]
    write_video(stem.with_name(f"{stem.name}.mp4"), np.stack(drawn), min(fps, _MOST_FPS))
    save_strip(stem.with_name(f"{stem.name}.png"), list(rows.values()))


def _draw(
    pictures: dict[str, np.ndarray], prompts: Sequence[str], ends: Sequence[int], frame: int, fps: int
) -> np.ndarray:
    """One frame of the film. `ends`: the frame at which each skill ends."""
    height, width = next(iter(pictures.values())).shape[:2]
    scale = max(1, -(-_SIDE // width))
    height, width = 2 * (height * scale // 2), 2 * (width * scale // 2)
    page = Image.new("RGB", (width, len(pictures) * (_LABEL + height) + _HEAD), _PAPER)
    draw, small, font = ImageDraw.Draw(page), ImageFont.load_default(12), ImageFont.load_default(14)
    for row, (name, picture) in enumerate(pictures.items()):
        top = _HEAD + row * (_LABEL + height)
        draw.text((_MARGIN, top + 5), name, fill=_MUTE, font=small)
        page.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), (0, top + _LABEL))
    last = ends[-1]
    skill = next((i for i, end in enumerate(ends) if frame <= end), len(ends) - 1)
    said = f"skill {skill + 1} of {len(ends)}    {frame / fps:.2f} of {last / fps:.2f} s"
    draw.text((_MARGIN, 22), said, fill=_MUTE, font=small)
    lines = textwrap.wrap(prompts[skill], max(20, width // 8), max_lines=2, placeholder=" …")
    draw.multiline_text((_MARGIN, 40), "\n".join(lines), fill=_INK, font=font, spacing=2)
    for start, end in zip([0, *ends], ends, strict=False):
        left, right = (_MARGIN + (width - 2 * _MARGIN) * edge / last for edge in (start, end))
        now = min(right - 1, max(left, _MARGIN + (width - 2 * _MARGIN) * frame / last))
        draw.rectangle((left + 1, 9, right - 1, 15), fill=_SOFT)
        if frame > start:
            draw.rectangle((left + 1, 9, now, 15), fill=_ACCENT)
    return np.asarray(page)
