"""Parse a language model's answer into a plan or chosen events, or discard it with a reason.

A model may break any of these rules; readers of skills.parquet can rely on all of them. An answer is complete (not cut
at max_tokens) and one JSON object (bare, in a code fence, or the only one in prose) of the requested form, without
coercion of types. A prompt is short, printable, in the script of the instruction, and shares a word with it. An index
is one of the request's events and used at most once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from world2act.skills.clips import Discard, check_prompt, excerpt
from world2act.skills.language import Answer, Request
from world2act.skills.plan import EPISODE_END, Step, mismatch, place
from world2act.skills.prompts import PromptFile

MAX_SKILLS = 8
MAX_INSTRUCTION = 1000
"""Characters of an instruction or a task name; episodes with longer ones are discarded without asking."""
MAX_EVENTS = 64
"""Events of one episode; more are noise, and the episode is discarded without asking."""

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Reply:
    """A model's raw answer. `finish` is "stop", or the reason why it ended early: "length", "content_filter"."""

    raw: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    refusal: str | None = None


_FormT = TypeVar("_FormT", bound=_Form)


class _Skill(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str
    ends_at: str


class _Plan(_Form):
    skills: list[_Skill]


class _Choice(_Form):
    events: list[int]


def unfit(request: Request) -> str:
    """The reason why a model is not asked about a request; empty if it is asked."""
    for name, text in (("task", request.task), ("instruction", request.instruction)):
        if len(text) > MAX_INSTRUCTION:
            return f"the {name} has {len(text)} characters, more than {MAX_INSTRUCTION}"
        if not text.strip().isprintable() or not text.strip():
            return f"the {name} is empty or holds characters that do not print: {excerpt(text)}"
    if len(request.events) > MAX_EVENTS:
        return f"{len(request.events)} events, more than {MAX_EVENTS}"
    return ""


def read_plan(reply: Reply, instruction: str, prompts: PromptFile) -> tuple[Step, ...]:
    """The atomic prompts of an instruction. Raises `Discard` with the rule that the answer breaks."""
    plan = _read(reply, _Plan)
    if not 1 <= len(plan.skills) <= MAX_SKILLS:
        raise Discard(f"the model gave {len(plan.skills)} prompts, not 1 to {MAX_SKILLS}")
    steps: list[Step] = []
    for i, skill in enumerate(plan.skills):
        last = i == len(plan.skills) - 1
        if skill.ends_at not in (*prompts.kinds, EPISODE_END) or (skill.ends_at == EPISODE_END and not last):
            raise Discard(f"the model ends prompt {i} at {excerpt(skill.ends_at)}")
        prompt = skill.prompt.strip()
        check_prompt(prompt, i)
        _check_language(prompt, instruction, prompts.common_words, i)
        if steps and steps[-1].prompt.casefold() == prompt.casefold():
            raise Discard(f"the model says prompt {i} twice: {excerpt(prompt)}")
        steps.append(Step.model_validate({"prompt": prompt, "ends_at": skill.ends_at}))
    return tuple(steps)


def read_choice(reply: Reply, steps: Sequence[Step], request: Request) -> Answer:
    """The events that end the steps of a plan. Raises `Discard` with the rule that the answer breaks."""
    chosen = _read(reply, _Choice).events
    for index in chosen:
        if not 0 <= index < len(request.events):
            raise Discard(f"the model chose event {excerpt(str(index))} of the {len(request.events)} given")
    if any(later <= earlier for earlier, later in pairwise(chosen)):
        raise Discard(f"the model chose events out of order or twice: {chosen[:MAX_EVENTS]}")
    answer = place(steps, request.events, chosen)
    if answer.refusal:
        raise Discard(f"the model's choice does not fit, {answer.refusal}: {mismatch(steps, request.events)}")
    return answer


def _read(reply: Reply, form: type[_FormT]) -> _FormT:
    if reply.finish == "length":
        raise Discard(f"the model's answer was cut at max_tokens: {excerpt(reply.raw)}")
    if reply.finish != "stop":
        raise Discard(f"the model did not finish: {excerpt(reply.finish)}")
    try:
        answer = form.model_validate_json(_json(reply.raw))
    except (ValidationError, UnicodeEncodeError) as error:
        wrong = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "half a character"
        raise Discard(
            f"the model's answer is not the JSON asked for ({excerpt(wrong)}): {excerpt(reply.raw)}"
        ) from None
    if answer.refusal and answer.refusal.strip():
        raise Discard(f"the model refused: {excerpt(answer.refusal)}")
    return answer


def _json(raw: str) -> str:
    """The JSON object in an answer, without thoughts, code fence or surrounding prose."""
    text = _THOUGHT.sub("", raw)
    if fence := _FENCE.search(text):
        text = fence[1]
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _check_language(prompt: str, instruction: str, common_words: frozenset[str], i: int) -> None:
    foreign = _scripts(prompt) - _scripts(instruction)
    if foreign:
        raise Discard(
            f"prompt {i} is written in {', '.join(sorted(foreign))}, the instruction is not: {excerpt(prompt)}"
        )
    asked = _words(instruction) - common_words
    if not any(_same(word, other) for word in _words(prompt) - common_words for other in asked):
        raise Discard(
            f"prompt {i} shares no word with the instruction, so it is in another language or about another task: "
            f"{excerpt(prompt)}"
        )


def _scripts(text: str) -> set[str]:
    """The scripts of a text's letters, by the first word of their Unicode names: LATIN, CYRILLIC, CJK."""
    return {unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha()}


def _words(text: str) -> set[str]:
    """The case-folded words; in scripts without spaces between words, every letter counts as one."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return {part for word in words for part in (word if unicodedata.east_asian_width(word[0]) in "WF" else [word])}


def _same(word: str, other: str) -> bool:
    """Whether two words are equal or one starts with the other, like bowl and bowls."""
    shorter, longer = sorted((word, other), key=len)
    return shorter == longer or (len(shorter) >= 3 and longer.startswith(shorter))
