"""A language model as a provider: two steps, each answer journaled, checked, and discarded where it breaks a rule.

What costs a call: an instruction is divided once, however many episodes follow it; an episode whose events fit the
plan in just one way, or cannot fit it, is settled without asking. Only an episode with more events than its plan needs
is put to the model, which chooses among them by index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.params.skills import Price
from world2act.skills.alignment import Discard
from world2act.skills.journal import Journal, Question
from world2act.skills.language import Answer, Request, Usage
from world2act.skills.plan import Step, match
from world2act.skills.prompts import Messages, PromptFile, StepName
from world2act.skills.replies import Reply, read_choice, read_plan, unfit

Keep = Callable[[int, Reply], None]
Plan = tuple[Step, ...]


class ChatError(Exception):
    """A model gave no answer at all. `setting`: what to correct, or empty where the next try may do better."""

    def __init__(self, where: str, found: str, expected: str, remedy: str, setting: str = "") -> None:
        super().__init__(found)
        self.where, self.found, self.expected, self.remedy, self.setting = where, found, expected, remedy, setting


class Chat(Protocol):
    """A model that answers messages. `settings` are those that its answers depend on."""

    provider: str
    model: str
    settings: dict[str, Any]
    price: Price

    def ask(self, conversations: Sequence[tuple[Messages, dict[str, Any]]], keep: Keep) -> None:
        """Answer messages, each with the JSON schema of its answer; hand over each reply when it is there.

        Raises:
            ChatError: one of them got no answer. Those that did were handed over.
        """


class ModelProvider:
    """See the module's text."""

    def __init__(self, chat: Chat, prompts: PromptFile, journal: Journal) -> None:
        self.name = f"{chat.provider}/{chat.model}"
        self.transcripts: list[dict[str, Any]] = []
        self._chat, self._prompts, self._journal = chat, prompts, journal
        self._calls: list[Reply] = []
        self._answers: dict[str, Reply] = {}
        self._seconds = 0.0

    @property
    def usage(self) -> Usage:
        total = {f"total_{name}": value for name, value in self._bill(self._answers.values()).items()}
        reused = len(self._answers) - len(self._calls)
        return Usage(len(self._calls), reused, seconds=round(self._seconds, 3), **self._bill(self._calls), **total)

    def split(self, requests: Sequence[Request]) -> list[Answer]:
        self._prompts.require_kinds({event.kind for request in requests for event in request.events})
        answers = {request: Answer((), reason) for request in requests if (reason := unfit(request))}
        fit = [request for request in requests if request not in answers]
        plans = self._plans(list(dict.fromkeys(map(_about, fit))))
        unsettled: list[tuple[Request, Plan]] = []
        for request in fit:
            plan = plans[_about(request)]
            if isinstance(plan, Answer):
                answers[request] = plan
            elif answer := match(plan, request.events):
                answers[request] = answer
            else:
                unsettled.append((request, plan))
        answers |= self._choices(unsettled)
        return [answers[request] for request in requests]

    def _plans(self, instructions: list[tuple[str, str]]) -> dict[tuple[str, str], Plan | Answer]:
        """The plan of each task and instruction, or the refusal of all its episodes."""
        requests = [{"task": task, "instruction": instruction} for task, instruction in instructions]
        replies = self._replies("plan", requests, [0] * len(requests))
        plans: dict[tuple[str, str], Plan | Answer] = {}
        for about, request, reply in zip(instructions, requests, replies, strict=True):
            try:
                plan = read_plan(reply, about[1], self._prompts)
                self._note("plan", request, reply, {"skills": [step.model_dump() for step in plan], "refusal": ""})
                plans[about] = plan
            except Discard as reason:
                self._note("plan", request, reply, {"skills": [], "refusal": str(reason)})
                plans[about] = Answer((), str(reason))
        return plans

    def _choices(self, cases: list[tuple[Request, Plan]]) -> dict[Request, Answer]:
        requests = [
            {
                "instruction": request.instruction.strip(),
                "skills": [step.model_dump() for step in plan],
                "frames": request.frames,
                "events": request.as_json()["events"],
            }
            for request, plan in cases
        ]
        replies = self._replies("choice", requests, [len(request.events) for request, _ in cases])
        answers: dict[Request, Answer] = {}
        for (request, plan), asked, reply in zip(cases, requests, replies, strict=True):
            try:
                answers[request] = read_choice(reply, plan, request)
            except Discard as reason:
                answers[request] = Answer((), str(reason))
            self._note("choice", asked, reply, answers[request].as_json())
        return answers

    def _replies(self, step: StepName, requests: list[dict[str, Any]], events: list[int]) -> list[Reply]:
        """An answer to each request, from the journal or the model."""
        questions = [self._question(step, request) for request in requests]
        missing: dict[str, tuple[Question, int]] = {}
        for question, count in zip(questions, events, strict=True):
            if reply := self._journal.get(question):
                self._answers[question.key] = reply
            else:
                missing[question.key] = question, count
        if missing:
            self._ask(list(missing.values()))
        return [self._answers[question.key] for question in questions]

    def _ask(self, missing: list[tuple[Question, int]]) -> None:
        def keep(i: int, reply: Reply) -> None:
            question, _ = missing[i]
            self._journal.append(question, reply)
            self._answers[question.key] = reply
            self._calls.append(reply)

        conversations = [
            (self._prompts.messages(question.step, question.request), self._prompts.form(question.step, count))
            for question, count in missing
        ]
        start = time.monotonic()
        try:
            self._chat.ask(conversations, keep)
        except ChatError as error:
            raise self._failure(error, sum(question.key not in self._answers for question, _ in missing)) from None
        finally:
            self._seconds += time.monotonic() - start

    def _failure(self, error: ChatError, left: int) -> BadInput | InfrastructureError:
        remedy = (
            f"{error.remedy}; then run the stage again: {len(self._answers)} answers are safe ({len(self._calls)} of "
            f"this run, in {self._journal.path}), and only the {left} missing of this step are asked for"
        )
        if error.setting:
            return BadInput(error.where, error.setting, error.found, error.expected, remedy)
        return InfrastructureError(
            f"{error.where}\n  found:    {error.found}\n  expected: {error.expected}\n  remedy:   {remedy}"
        )

    def _question(self, step: StepName, request: dict[str, Any]) -> Question:
        chat = self._chat
        return Question(chat.provider, chat.model, chat.settings, self._prompts.version, step, request)

    def _note(self, step: StepName, request: dict[str, Any], reply: Reply, answer: dict[str, Any]) -> None:
        self.transcripts.append(asdict(self._question(step, request)) | asdict(reply) | {"answer": answer})

    def _bill(self, replies: Iterable[Reply]) -> dict[str, Any]:
        prompt, completion = 0, 0
        for reply in replies:
            prompt += reply.prompt_tokens
            completion += reply.completion_tokens
        price = self._chat.price
        cost = (prompt * price.prompt + completion * price.completion) / 1e6
        return {"prompt_tokens": prompt, "completion_tokens": completion, "cost": cost}


def _about(request: Request) -> tuple[str, str]:
    return request.task.strip(), request.instruction.strip()
