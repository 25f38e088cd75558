"""The language stream: from an instruction and candidate events to an ordered list of atomic prompts.

A provider is anything with `split`. It can only choose among the events of the request, by their index. Its answers
are checked by `world2act.skills.clips`, so no provider can invent a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from world2act.skills.contact import Event, Kind

END: Literal["end"] = "end"
Transcript = Mapping[str, object]
"""One line of transcripts.jsonl."""


class EventJson(TypedDict):
    """An event as a model sees it; `index` is its position among the events of the request."""

    index: int
    frame: int
    kind: Kind


class RequestJson(TypedDict):
    """A `Request` in transcripts.jsonl."""

    task: str
    instruction: str
    frames: int
    events: list[EventJson]


class SegmentJson(TypedDict):
    """A `Segment` in transcripts.jsonl."""

    prompt: str
    ends_at: int | Literal["end"]


class AnswerJson(TypedDict):
    """An `Answer` in transcripts.jsonl."""

    segments: list[SegmentJson]
    refusal: str


@dataclass(frozen=True)
class Request:
    """What a provider sees of an episode: neither images nor actions."""

    task: str
    instruction: str
    frames: int
    events: tuple[Event, ...]

    def as_json(self) -> RequestJson:
        events = [EventJson(index=i, frame=event.frame, kind=event.kind) for i, event in enumerate(self.events)]
        return {"task": self.task, "instruction": self.instruction, "frames": self.frames, "events": events}


@dataclass(frozen=True)
class Segment:
    """One atomic prompt, and the index of the event at which it ends, or `END` for the end of the episode."""

    prompt: str
    ends_at: int | Literal["end"]


@dataclass(frozen=True)
class Answer:
    """Segments in order, or no segments and the reason why the events do not match the instruction."""

    segments: tuple[Segment, ...]
    refusal: str = ""

    def as_json(self) -> AnswerJson:
        segments = [SegmentJson(prompt=segment.prompt, ends_at=segment.ends_at) for segment in self.segments]
        return {"segments": segments, "refusal": self.refusal}


@dataclass
class Usage:
    """What the answers of a run cost.

    Attributes:
        calls: answers that this run asked for; reused: answers that were known before.
        prompt_tokens, completion_tokens, cost: of the calls of this run.
        total_prompt_tokens, total_completion_tokens, total_cost: of all answers that the skills are based on,
            whichever run asked for them. Costs are in the currency of the prices in params.yaml.
        seconds: time spent waiting for the calls.
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
    """Divides instructions into prompts.

    `name` is recorded in skills.parquet as the origin of the prompts. `transcripts` has one line per question and its
    answer; `usage` is what the answers cost.
    """

    name: str
    transcripts: list[Transcript]

    @property
    def usage(self) -> Usage: ...

    def split(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer distinct requests, in the same order.

        Raises:
            BadInput: the provider is not configured, or lacks prompts for one of the tasks.
            InfrastructureError: the provider cannot be reached.
        """
