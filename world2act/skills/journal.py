"""Every question that a model was asked and its raw answer, so that no question is asked twice.

Answers are read from two places: the finished `artifacts/skills/transcripts.jsonl` of the previous run, which DVC
brings to a fresh clone, and the journal `runs/skills/answers.jsonl`, to which every answer is appended and synced as
soon as it arrives. A kill loses only the answers that have not arrived. The artifact holds the answers that its skills
are based on; the journal also keeps the answers of other prompts and models, and nothing is ever removed from it.

Two questions are the same if everything that the answer depends on is the same: provider, model, sampling settings,
the prompt file's hash, the step and the request. The endpoint's address, the key and the time do not count.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from world2act.core.errors import BadInput, InfrastructureError
from world2act.skills.prompts import StepName
from world2act.skills.replies import Reply


@dataclass(frozen=True)
class Question:
    """`settings` are those that sampling depends on; `request` is the data that the prompt of `step` is filled with."""

    provider: str
    model: str
    settings: Mapping[str, object]
    prompt_sha256: str
    step: StepName
    request: Mapping[str, object]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


_QUESTION, _REPLY = TypeAdapter(Question), TypeAdapter(Reply)


class Journal:
    """All known answers. The files are read when the first question is looked up; new answers go to `path`."""

    def __init__(self, path: Path, finished: Path) -> None:
        self.path = path
        self._finished = finished
        self._replies: dict[str, Reply] | None = None

    def get(self, question: Question) -> Reply | None:
        """The answer to a question that was asked before, else None.

        Raises:
            BadInput: a line of either file is damaged. Only the journal's last line may be, after a kill.
        """
        if self._replies is None:
            self._drop_torn_line()
            self._replies = {}
            for known, reply in _read(self.path, "delete this line; its question will be asked again"):
                self._replies[known.key] = reply
            for known, reply in _read(self._finished, "restore it with `dvc checkout`"):
                if self._replies.get(known.key) != reply:
                    self.append(known, reply)
        return self._replies.get(question.key)

    def append(self, question: Question, reply: Reply) -> None:
        """Store an answer; it is on disk when this returns. Raises `InfrastructureError` if the disk is full."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(asdict(question) | asdict(reply), sort_keys=True) + "\n").encode()
        with self.path.open("ab", buffering=0) as stream:
            end = stream.tell()
            try:
                if stream.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(stream.fileno())
            except OSError as error:
                os.truncate(self.path, end)
                raise InfrastructureError(
                    f"{self.path}\n  found:    {error.strerror} while writing\n  expected: room for one more answer"
                    "\n  remedy:   free disk space and run the stage again; stored answers are not asked for again"
                ) from error
        if self._replies is not None:
            self._replies[question.key] = reply

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            os.truncate(self.path, content.rfind(b"\n") + 1)


def _read(path: Path, remedy: str) -> Iterator[tuple[Question, Reply]]:
    """The questions and answers of a file. Lines of the schema provider, which asks no model, are skipped."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                record = json.loads(line)
                if set(record) == {"request", "answer"}:
                    continue
                question, reply = _QUESTION.validate_python(record), _REPLY.validate_python(record)
            except (ValueError, TypeError) as error:
                found = str(error).splitlines()[0]
                raise BadInput(path, f"line {number}", found, "a question and its answer", remedy) from error
            yield question, reply
