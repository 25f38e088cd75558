"""The versioned prompt file (conf/skills/prompt.yaml): what a language model is asked, and in which words.

Data goes into the user's message as one JSON object whose every `<` is escaped: no text of a data set can close it, or
spell one of the marks (`<|im_end|>`, `</think>`) by which models tell who speaks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from world2act.core.errors import BadInput
from world2act.core.storage import sha256
from world2act.skills.contact import Kind
from world2act.skills.plan import EPISODE_END

StepName = Literal["plan", "choice"]
Messages = list[dict[str, str]]


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
    """`version` is the file's sha256, `kinds` the kinds of events that it explains to the model."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BadInput(
                path, "", "nothing", "the prompt file that skills.prompt_file names", "write it, or correct params.yaml"
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
                raise BadInput(path, f"{name}.user", "no {request}", "the place of the data", "write {request} there")
        self.kinds = tuple(self._content.kinds)
        self.common_words = frozenset(self._content.common_words.casefold().split())

    def messages(self, step: StepName, request: dict[str, Any]) -> Messages:
        """The system's and the user's message of a step about a request."""
        template: _Template = getattr(self._content, step)
        kinds = "\n".join(f"  {kind}: {meaning}" for kind, meaning in self._content.kinds.items())
        data = json.dumps(request, ensure_ascii=False).replace("<", "\\u003c")
        return [
            {"role": "system", "content": template.system.replace("{kinds}", kinds)},
            {"role": "user", "content": template.user.replace("{request}", data)},
        ]

    def form(self, step: StepName, events: int) -> dict[str, Any]:
        """The JSON schema of a step's answer, for servers that hold a model to one: no other kind or index fits it."""
        if step == "plan":
            ends_at = {"type": "string", "enum": [*self.kinds, EPISODE_END]}
            skill = _object(prompt={"type": "string"}, ends_at=ends_at)
            return _object(skills={"type": "array", "items": skill}, refusal={"type": "string"})
        index = {"type": "integer", "enum": list(range(events))}
        return _object(events={"type": "array", "items": index}, refusal={"type": "string"})

    def require_kinds(self, kinds: set[str]) -> None:
        """Raise `BadInput` where the segmentation finds kinds of events that the file does not explain."""
        if missing := sorted(kinds - set(self.kinds)):
            raise BadInput(
                self.path, "kinds", f"nothing about {missing}", "what each kind of event means", "explain it there"
            )


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
