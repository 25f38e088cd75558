"""The offline language provider: hand-written prompts a task family, from conf/skills/<simulator>.yaml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from world2act.errors import BadInput
from world2act.skills.language import END, Answer, Request, Segment


class _Prompt(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(pattern=r"\S")
    ends_at: Literal["contact_onset", "contact_end", "episode_end"]


class _Schema(RootModel[dict[str, list[_Prompt]]]):
    pass


class SchemaProvider:
    """Choose events by the kind that ends each prompt; refuse where their number is not the schema's.

    Events of a kind that no prompt of the task ends at are false positives and are passed over: a gripper that the
    expert keeps shut while it pushes.
    """

    name = "schema"

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if not self._path.exists():
            raise BadInput(
                path, "", "nothing", "the schema file that skills.schema_file names", "write it, or correct params.yaml"
            )
        try:
            self._tasks = _Schema.model_validate(yaml.safe_load(self._path.read_text(encoding="utf-8"))).root
        except (yaml.YAMLError, ValidationError) as error:
            raise BadInput(path, "", error, "task: [{prompt, ends_at}, ...]", "correct the entries named") from error

    def split(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._split(request) for request in requests]

    def _split(self, request: Request) -> Answer:
        prompts = self._tasks.get(request.task)
        if not prompts:
            raise BadInput(
                self._path, request.task, "no prompts", "the task's prompts in order", "add the task to the schema file"
            )
        wanted = Counter(prompt.ends_at for prompt in prompts if prompt.ends_at != "episode_end")
        found = Counter(event.kind for event in request.events if event.kind in wanted)
        if wanted != found:
            return Answer((), f"{_counts(found)} for prompts that end at {_counts(wanted)}")
        segments, next_event = [], 0
        for prompt in prompts:
            if prompt.ends_at == "episode_end":
                segments.append(Segment(prompt.prompt, END))
                continue
            kinds = [event.kind for event in request.events]
            if prompt.ends_at not in kinds[next_event:]:
                return Answer((), f"no {prompt.ends_at} left for the prompt {prompt.prompt!r}")
            chosen = kinds.index(prompt.ends_at, next_event)
            segments.append(Segment(prompt.prompt, chosen))
            next_event = chosen + 1
        return Answer(tuple(segments))


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no event"
