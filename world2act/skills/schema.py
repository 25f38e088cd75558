"""The offline language provider: hand-written prompts per task, from conf/skills/<simulator>.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import RootModel, ValidationError

from world2act.core.errors import BadInput
from world2act.skills.language import Answer, Request, Transcript, Usage
from world2act.skills.plan import Step, match, mismatch


class _Schema(RootModel[dict[str, list[Step]]]):
    pass


class SchemaProvider:
    """Chooses events by the kind that ends a prompt; refuses if their number differs from the schema."""

    name = "schema"

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.transcripts: list[Transcript] = []
        self.usage = Usage()
        if not self._path.exists():
            raise BadInput(
                path,
                "",
                "nothing",
                "the schema file that skills.schema_file names",
                "create it, or correct params.yaml",
            )
        try:
            self._tasks = _Schema.model_validate(yaml.safe_load(self._path.read_text(encoding="utf-8"))).root
        except (yaml.YAMLError, ValidationError) as error:
            raise BadInput(path, "", error, "task: [{prompt, ends_at}, ...]", "correct the entries named") from error

    def split(self, requests: Sequence[Request]) -> list[Answer]:
        answers = [self._split(request) for request in requests]
        self.transcripts += [
            {"request": request.as_json(), "answer": answer.as_json()}
            for request, answer in zip(requests, answers, strict=True)
        ]
        return answers

    def _split(self, request: Request) -> Answer:
        steps = self._tasks.get(request.task)
        if not steps:
            raise BadInput(
                self._path, request.task, "no prompts", "the task's prompts in order", "add the task to the schema file"
            )
        return match(steps, request.events) or Answer((), mismatch(steps, request.events))
