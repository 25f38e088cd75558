"""The versioned prompt file (conf/skills/prompt.yaml): how a language model is asked.

Data goes into the user's message as one JSON object in which every `<` is escaped, so no text of a dataset can spell
one of the special tokens (`<|im_end|>`, `</think>`) by which models tell the speakers apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from world2act.core.errors import BadInput
from world2act.core.storage import sha256
from world2act.skills.contact import Kind
from world2act.skills.plan import EPISODE_END

StepName = Literal["plan", "choice"]
JsonSchema = Mapping[str, object]


@dataclass(frozen=True)
class Conversation:
    """The system's and the user's message, and the JSON schema of the answer for servers that can enforce one."""

    system: str
    user: str
    answer_schema: JsonSchema


class _Template(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    user: str


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: dict[Kind, str]
    plan: _Template
    choice: _Template
    common_words: str


class PromptFile:
    """`version` is the file's sha256, `kinds` are the kinds of events that it explains to the model."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BadInput(
                path,
                "",
                "nothing",
                "the prompt file that skills.prompt_file names",
                "create it, or correct params.yaml",
            )
        self.version = sha256(self.path)
        try:
            self._content = _Content.model_validate(yaml.safe_load(self.path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
            raise BadInput(
                path, "", error, "kinds, plan, choice and common_words", "compare with conf/skills/prompt.yaml"
            ) from error
        for name in ("plan", "choice"):
            if "{request}" not in getattr(self._content, name).user:
                raise BadInput(
                    path, f"{name}.user", "no {request}", "{request} in place of the data", "write {request}"
                )
        self.kinds = tuple(self._content.kinds)
        self.common_words = frozenset(self._content.common_words.casefold().split())

    def conversation(self, step: StepName, request: Mapping[str, object], events: int) -> Conversation:
        """What a model is asked at a step about a request with a number of events."""
        template: _Template = getattr(self._content, step)
        kinds = "\n".join(f"  {kind}: {meaning}" for kind, meaning in self._content.kinds.items())
        data = json.dumps(request, ensure_ascii=False).replace("<", "\\u003c")
        system, user = template.system.replace("{kinds}", kinds), template.user.replace("{request}", data)
        return Conversation(system, user, self._answer_schema(step, events))

    def _answer_schema(self, step: StepName, events: int) -> JsonSchema:
        """The JSON schema of a step's answer; it admits only known kinds and indices."""
        if step == "plan":
            ends_at = {"type": "string", "enum": [*self.kinds, EPISODE_END]}
            skill = _object(prompt={"type": "string"}, ends_at=ends_at)
            return _object(skills={"type": "array", "items": skill}, refusal={"type": "string"})
        index = {"type": "integer", "enum": list(range(events))}
        return _object(events={"type": "array", "items": index}, refusal={"type": "string"})

    def require_kinds(self, kinds: set[str]) -> None:
        """Raise `BadInput` if the segmentation finds kinds of events that the file does not explain."""
        if missing := sorted(kinds - set(self.kinds)):
            raise BadInput(
                self.path,
                "kinds",
                f"nothing about {missing}",
                "the meaning of every kind of event",
                "explain these kinds",
            )


def _object(**properties: JsonSchema) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
