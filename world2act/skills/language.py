"""The language stream: an instruction and the candidate events in, an ordered list of atomic prompts out.

A provider is anything with `split`. It may only choose among the events it is given, by their index; whatever it
answers is checked by `world2act.skills.alignment`, so that no provider can invent a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from world2act.skills.contact import Event

END: Literal["end"] = "end"


@dataclass(frozen=True)
class Request:
    """What a provider sees of an episode: no picture and no action."""

    task: str
    instruction: str
    frames: int
    events: tuple[Event, ...]

    def as_json(self) -> dict[str, Any]:
        events = [{"index": i, **asdict(event)} for i, event in enumerate(self.events)]
        return {"task": self.task, "instruction": self.instruction, "frames": self.frames, "events": events}


@dataclass(frozen=True)
class Segment:
    """One atomic prompt, and the index of the event at which it ends, or `END` for the end of the episode."""

    prompt: str
    ends_at: int | Literal["end"]


@dataclass(frozen=True)
class Answer:
    """Segments in order; or none, and why the events do not match the instruction."""

    segments: tuple[Segment, ...]
    refusal: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"segments": [asdict(segment) for segment in self.segments], "refusal": self.refusal}


@dataclass
class Usage:
    """What the answers of a run took. `calls` were made and `reused` were not; tokens and `cost` are of the calls,
    `total_*` of all the answers that the skills stand on, whenever they were asked for. `seconds` is time spent
    waiting for calls; cost is in the currency of the prices in params.yaml.
    """

    calls: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    total_prompt_tokens: int = 0
    total_completion_tokens: int = 0
    total_cost: float = 0.0
    seconds: float = 0.0


class LanguageProvider(Protocol):
    """`name` goes into skills.parquet as the provenance of its prompts; `transcripts` holds a line for each question
    that was put to it and its answer, `usage` what that took.
    """

    name: str
    transcripts: list[dict[str, Any]]
    usage: Usage

    def split(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer distinct requests, in their order.

        Raises:
            BadInput: the provider is not set up, or not for one of the tasks.
            InfrastructureError: the provider cannot be reached.
        """
