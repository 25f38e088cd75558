"""A language model as a provider, in two steps. Every answer is journaled, then checked; a bad one is a discard.

Calls are kept few. An instruction is divided into a plan once, however many episodes have it. An episode whose events
fit the plan in exactly one way, or not at all, is decided without the model. Only for an episode with more events than
its plan needs does the model choose among them, by index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple, Protocol

from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.params.skills import Price
from world2act.skills.clips import Discard
from world2act.skills.journal import Journal, Question
from world2act.skills.language import Answer, Request, Transcript, Usage
from world2act.skills.plan import Step, match
from world2act.skills.prompts import Conversation, PromptFile, StepName
from world2act.skills.replies import Reply, read_choice, read_plan, unfit

Keep = Callable[[int, Reply], None]
Plan = tuple[Step, ...]


class ChatError(Exception):
    """A model gave no answer at all. `setting` is the key to correct, or empty if trying again may help."""

    def __init__(self, where: str, found: str, expected: str, remedy: str, setting: str = "") -> None:
        super().__init__(found)
        self.where, self.found, self.expected, self.remedy, self.setting = where, found, expected, remedy, setting


class Chat(Protocol):
    """A model that answers messages. `settings` are those that its answers depend on."""

    provider: str
    model: str
    settings: Mapping[str, object]
    price: Price

    def ask(self, conversations: Sequence[Conversation], keep: Keep) -> None:
        """Answer every conversation, and call `keep` with its index and the reply as soon as the reply arrives.

        Raises:
            ChatError: a conversation got no answer. `keep` was called for those that did.
        """


class _Bill(NamedTuple):
    prompt_tokens: int
    completion_tokens: int
    cost: float


class ModelProvider:
    """Divides instructions with a chat model (see the module's docstring)."""

    def __init__(self, chat: Chat, prompts: PromptFile, journal: Journal) -> None:
        self.name = f"{chat.provider}/{chat.model}"
        self.transcripts: list[Transcript] = []
        self._chat, self._prompts, self._journal = chat, prompts, journal
        self._calls: list[Reply] = []
        self._answers: dict[str, Reply] = {}
        self._seconds = 0.0

    @property
    def usage(self) -> Usage:
        calls, total = self._bill(self._calls), self._bill(self._answers.values())
        return Usage(
            calls=len(self._calls),
            reused=len(self._answers) - len(self._calls),
            prompt_tokens=calls.prompt_tokens,
            completion_tokens=calls.completion_tokens,
            cost=calls.cost,
            total_prompt_tokens=total.prompt_tokens,
            total_completion_tokens=total.completion_tokens,
            total_cost=total.cost,
            seconds=round(self._seconds, 3),
        )

    def split(self, requests: Sequence[Request]) -> list[Answer]:
        self._prompts.require_kinds({event.kind for request in requests for event in request.events})
        answers = {request: Answer((), reason) for request in requests if (reason := unfit(request))}
        fit = [request for request in requests if request not in answers]
        plans = self._plans(list(dict.fromkeys(map(_instruction_of, fit))))
        unsettled: list[tuple[Request, Plan]] = []
        for request in fit:
            plan = plans[_instruction_of(request)]
            if isinstance(plan, Answer):
                answers[request] = plan
            elif answer := match(plan, request.events):
                answers[request] = answer
            else:
                unsettled.append((request, plan))
        answers |= self._choices(unsettled)
        return [answers[request] for request in requests]

    def _plans(self, instructions: list[tuple[str, str]]) -> dict[tuple[str, str], Plan | Answer]:
        """(task, instruction) → its plan, or the refusal that applies to all of its episodes."""
        requests = [{"task": task, "instruction": instruction} for task, instruction in instructions]
        replies = self._replies("plan", requests, [0] * len(requests))
        plans: dict[tuple[str, str], Plan | Answer] = {}
        for (task, instruction), request, reply in zip(instructions, requests, replies, strict=True):
            try:
                plan = read_plan(reply, instruction, self._prompts)
                self._note("plan", request, reply, {"skills": [step.model_dump() for step in plan], "refusal": ""})
                plans[task, instruction] = plan
            except Discard as reason:
                self._note("plan", request, reply, {"skills": [], "refusal": str(reason)})
                plans[task, instruction] = Answer((), str(reason))
        return plans

    def _choices(self, cases: list[tuple[Request, Plan]]) -> dict[Request, Answer]:
        requests: list[Mapping[str, object]] = [
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

    def _replies(self, step: StepName, requests: Sequence[Mapping[str, object]], events: Sequence[int]) -> list[Reply]:
        """The reply to every request, from the journal or the model. `events`: the number of its events."""
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
            self._prompts.conversation(question.step, question.request, count) for question, count in missing
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
            f"{error.remedy}; then run the stage again: {len(self._answers)} answers are safe ({len(self._calls)} from "
            f"this run, in {self._journal.path}), and only the {left} missing ones of this step are asked for"
        )
        if error.setting:
            return BadInput(error.where, error.setting, error.found, error.expected, remedy)
        return InfrastructureError(
            f"{error.where}\n  found:    {error.found}\n  expected: {error.expected}\n  remedy:   {remedy}"
        )

    def _question(self, step: StepName, request: Mapping[str, object]) -> Question:
        chat = self._chat
        return Question(chat.provider, chat.model, chat.settings, self._prompts.version, step, request)

    def _note(self, step: StepName, request: Mapping[str, object], reply: Reply, answer: Mapping[str, object]) -> None:
        self.transcripts.append(asdict(self._question(step, request)) | asdict(reply) | {"answer": answer})

    def _bill(self, replies: Iterable[Reply]) -> _Bill:
        prompt, completion = 0, 0
        for reply in replies:
            prompt += reply.prompt_tokens
            completion += reply.completion_tokens
        price = self._chat.price
        cost = (prompt * price.prompt + completion * price.completion) / 1e6
        return _Bill(prompt, completion, cost)


def _instruction_of(request: Request) -> tuple[str, str]:
    return request.task.strip(), request.instruction.strip()
