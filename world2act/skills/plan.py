"""A plan divides an instruction into atomic prompts, in order, with the kinds of events that end them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from world2act.skills.contact import Event, Kind
from world2act.skills.language import END, Answer, Segment

EPISODE_END: Literal["episode_end"] = "episode_end"


class Step(BaseModel):
    """One atomic prompt and the kind of event at which it ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(pattern=r"\S")
    ends_at: Kind | Literal["episode_end"]


def match(steps: Sequence[Step], events: Sequence[Event]) -> Answer | None:
    """Assign an event to every step that ends at one, if there is only one way to do it.

    Events of a kind at which no step ends are ignored, such as a gripper that the expert keeps closed while pushing.

    Returns:
        The answer; a refusal if events are missing or in another order; None if there are more events of a kind than
        steps that end at it, so that a choice is needed.
    """
    wanted, found = counts(steps, events)
    if any(found[kind] < wanted[kind] for kind in wanted):
        return Answer((), mismatch(steps, events))
    return None if found != wanted else place(steps, events, [i for i, e in enumerate(events) if e.kind in wanted])


def place(steps: Sequence[Step], events: Sequence[Event], chosen: Sequence[int]) -> Answer:
    """Assign the chosen events, in order, to the steps that end at an event; refuse if kinds or numbers differ."""
    unassigned = list(chosen)
    segments = []
    for i, step in enumerate(steps):
        if step.ends_at == EPISODE_END:
            segments.append(Segment(step.prompt, END))
        elif not unassigned:
            return Answer((), f"no event left for prompt {i}, {step.prompt!r}, which ends at {step.ends_at}")
        elif (kind := events[unassigned[0]].kind) != step.ends_at:
            return Answer((), f"{kind} where prompt {i}, {step.prompt!r}, ends at {step.ends_at}")
        else:
            segments.append(Segment(step.prompt, unassigned.pop(0)))
    return Answer((), f"{len(unassigned)} events more than prompts") if unassigned else Answer(tuple(segments))


def mismatch(steps: Sequence[Step], events: Sequence[Event]) -> str:
    """The numbers of events of the kinds that end a step, and the numbers that the steps need."""
    wanted, found = counts(steps, events)
    return f"{_say(found)} for prompts that end at {_say(wanted)}"


def counts(steps: Sequence[Step], events: Sequence[Event]) -> tuple[Counter[str], Counter[str]]:
    """By kind: the number of events that the steps need, and the number that the episode has."""
    wanted: Counter[str] = Counter(step.ends_at for step in steps if step.ends_at != EPISODE_END)
    found: Counter[str] = Counter(event.kind for event in events if event.kind in wanted)
    return wanted, found


def _say(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no event"
