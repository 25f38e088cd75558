"""Turn a provider's answer into skill clips on the latent grid, or discard the episode with a reason."""

from __future__ import annotations

from dataclasses import dataclass

from world2act.core.latent_time import FRAMES_PER_LATENT, floor_to_latent
from world2act.skills.language import END, Answer, Request

MAX_PROMPT = 120
"""Characters of a prompt."""


@dataclass(frozen=True)
class Skill:
    """A clip of frames `start..end`, both inclusive, on the latent grid; `raw_end` is its end before rounding."""

    start: int
    end: int
    raw_end: int
    prompt: str


class Discard(Exception):
    """The episode's prompts and events do not match; the message is the reason."""


def cut_clips(request: Request, answer: Answer) -> list[Skill]:
    """Turn a provider's answer into contiguous skills.

    Inner boundaries are rounded to the nearest grid point. The last end is rounded down, so that it never passes the
    last frame.

    Raises:
        Discard: the answer names an event that the request does not have, goes back in time, has a prompt other than
            the last that ends at the end of the episode, has a prompt that is empty, too long or not printable, or
            leaves a skill without a whole latent after its first frame.
    """
    if answer.refusal or not answer.segments:
        raise Discard(answer.refusal or "no prompt")
    skills: list[Skill] = []
    start = 0
    for i, segment in enumerate(answer.segments):
        last = i == len(answer.segments) - 1
        raw_end = _frame(request, segment.ends_at, last)
        check_prompt(segment.prompt.strip(), i)
        if skills and raw_end <= skills[-1].raw_end:
            raise Discard(f"prompt {i} ends at frame {raw_end}, not after frame {skills[-1].raw_end}")
        end = floor_to_latent(raw_end if last else raw_end + FRAMES_PER_LATENT // 2)
        if end - start < FRAMES_PER_LATENT:
            raise Discard(f"prompt {i} spans frames {start} to {end}: shorter than one latent")
        skills.append(Skill(start, end, raw_end, segment.prompt.strip()))
        start = end
    return skills


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of an untrusted text, quoted and escaped so that it can appear in a reason."""
    return repr(text if len(text) <= length else f"{text[:length]}…")


def check_prompt(prompt: str, i: int) -> None:
    """Raise `Discard` if prompt number `i` is empty, too long, without a letter, or not printable."""
    if not prompt:
        raise Discard(f"prompt {i} is empty")
    if len(prompt) > MAX_PROMPT:
        raise Discard(f"prompt {i} has {len(prompt)} characters, more than {MAX_PROMPT}: {excerpt(prompt)}")
    if not prompt.isprintable() or not any(character.isalpha() for character in prompt):
        raise Discard(f"prompt {i} has no letter, or characters that do not print: {excerpt(prompt)}")


def _frame(request: Request, ends_at: int | str, last: bool) -> int:
    if ends_at == END:
        if not last:
            raise Discard("a prompt before the last one ends at the end of the episode")
        return request.frames - 1
    if isinstance(ends_at, bool) or not isinstance(ends_at, int) or not 0 <= ends_at < len(request.events):
        raise Discard(f"event {ends_at!r} was not among the {len(request.events)} given")
    return request.events[ends_at].frame
