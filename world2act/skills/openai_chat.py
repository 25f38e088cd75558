"""Any OpenAI-compatible endpoint (DeepSeek, vLLM, llama.cpp, OpenAI, `transformers serve`) as a chat model.

The `openai` client retries dropped connections, timeouts, 408, 409, 429 and 5xx with exponential backoff, or after the
time in `Retry-After`. This module adds what the client lacks: a rate limit, limits on the time and size of every whole
try, and bounded concurrency. The key is read from the environment and appears only in the request's header.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from world2act.core.errors import InfrastructureError
from world2act.core.params.skills import OpenAIEndpoint
from world2act.skills.model_provider import ChatError, Keep
from world2act.skills.prompts import Conversation
from world2act.skills.replies import Reply

MAX_ANSWER_BYTES = 4 << 20
_BLOCK = "skills.openai"
_HEADERS = {
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "user-agent",
}
"""The only headers that are sent: the client would add those of OPENAI_CUSTOM_HEADERS and others, whatever the host."""
_FINISHED = ("stop", "length", "content_filter", "tool_calls", "function_call")


class OpenAIChat:
    """The chat model of `skills.openai`. It reads no environment and sends nothing before the first question."""

    provider = "openai"

    def __init__(self, endpoint: OpenAIEndpoint) -> None:
        self.model = endpoint.model
        self.price = endpoint.price_per_million
        self.settings: Mapping[str, object] = {
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
            "response_format": endpoint.response_format,
        }
        self._endpoint = endpoint

    def ask(self, conversations: Sequence[Conversation], keep: Keep) -> None:
        asyncio.run(self._ask(conversations, keep))

    async def _ask(self, conversations: Sequence[Conversation], keep: Keep) -> None:
        """Ask `concurrency` questions at a time; after a failure, ask no more but wait for the answers under way."""
        key = _key(self._endpoint.key_variable)
        waiting = iter(enumerate(conversations))
        failures: list[ChatError | InfrastructureError] = []

        async def work(client: openai.AsyncOpenAI) -> None:
            for i, conversation in waiting:
                try:
                    keep(i, await self._one(client, conversation, key))
                except (ChatError, InfrastructureError) as error:
                    failures.append(error)
                if failures:
                    return

        async with self._client(key) as client:
            await asyncio.gather(*(work(client) for _ in range(self._endpoint.concurrency)))
        if failures:
            raise failures[0]

    def _client(self, key: str) -> openai.AsyncOpenAI:
        endpoint = self._endpoint
        return openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=endpoint.base_url,
            max_retries=endpoint.retries,
            timeout=endpoint.timeout_s,
            http_client=_BoundedClient(endpoint),
        )

    async def _one(self, client: openai.AsyncOpenAI, conversation: Conversation, key: str) -> Reply:
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": conversation.system},
            {"role": "user", "content": conversation.user},
        ]
        sampling: dict[str, Any] = {self._endpoint.max_tokens_field: self._endpoint.max_tokens}
        if self._endpoint.temperature is not None:
            sampling["temperature"] = self._endpoint.temperature
        match self._endpoint.response_format:
            case "json_schema":
                answer = {"name": "answer", "strict": True, "schema": conversation.answer_schema}
                sampling["response_format"] = {"type": "json_schema", "json_schema": answer}
            case "json_object":
                sampling["response_format"] = {"type": "json_object"}
        try:
            completion = await client.chat.completions.create(model=self.model, messages=messages, **sampling)
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, _without(error.message, key)) from None
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            cause = error.__cause__ or error
            found = f"{type(cause).__name__}: {_without(str(cause), key)[:300]}"
            raise self._failed(f"{found} after {self._endpoint.retries + 1} tries", "an answer") from None
        return self._reply(completion, key)

    def _reply(self, completion: object, key: str) -> Reply:
        """Whatever is not a complete chat completion is a failure of the server, not the model's answer."""
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise self._failed("a response that is not a chat completion", "a chat completion with choices")
        choice, usage = completion.choices[0], completion.usage
        message = choice.message
        if message is None or not isinstance(message.content or "", str):
            raise self._failed("a choice without a message", "a chat completion with a message")
        if choice.finish_reason not in _FINISHED:
            raise self._failed(f"an unfinished answer ({str(choice.finish_reason)[:40]!r})", "a complete answer")
        return Reply(
            raw=_without(message.refusal or message.content or "", key),
            finish="refusal" if message.refusal else choice.finish_reason,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )

    def _refused(self, status: int, message: str) -> ChatError:
        variable = self._endpoint.key_variable
        if status in (401, 403):
            remedy = f"set {variable} to a key that may use {self.model}" if variable else f"set {_BLOCK}.key_variable"
            return self._failed(
                f"{status}: the key was refused", "a key the server knows", remedy, f"{_BLOCK}.key_variable"
            )
        found = f"{status}: {message[:300]!r}"
        if status in (408, 409, 429) or status >= 500:
            return self._failed(f"{found} after {self._endpoint.retries + 1} tries", "an answer")
        return self._failed(
            found,
            "a server that accepts the request",
            "correct base_url, model or max_tokens_field; if the server does not support json_schema, set "
            "response_format to json_object or text",
            _BLOCK,
        )

    def _failed(
        self, found: str, expected: str, remedy: str = "check that the server works", setting: str = ""
    ) -> ChatError:
        where = "params.yaml" if setting else f"the model {self.model} at {urlsplit(self._endpoint.base_url).netloc}"
        return ChatError(where, found, expected, remedy, setting)


class _BoundedClient(openai.DefaultAsyncHttpxClient):
    """Limits every try: waits for the rate limit, ends after `timeout_s` in total, and bounds the size of the answer.

    Redirects are not followed, and a server on this machine is not reached through a proxy, so the key goes only to
    the host that params.yaml names.
    """

    def __init__(self, endpoint: OpenAIEndpoint) -> None:
        super().__init__(follow_redirects=False, trust_env=endpoint.base_url.startswith("https:"))
        self._interval_s = 60 / endpoint.requests_per_minute
        self._timeout_s = endpoint.timeout_s
        self._turn, self._next = asyncio.Lock(), 0.0

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        async with self._turn:  # the interval begins when a call is sent, so calls do not bunch up after a delay
            await asyncio.sleep(self._next - time.monotonic())
            self._next = time.monotonic() + self._interval_s
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._receive(request, **(options | {"stream": True}))
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no complete answer within {self._timeout_s} s", request=request) from None

    async def _receive(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = await super().send(request, **options)
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise httpx2.DecodingError(f"an answer of more than {MAX_ANSWER_BYTES} bytes", request=request)
        finally:
            await response.aclose()
        coded = {"content-encoding", "content-length", "transfer-encoding"}
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in coded]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


def _key(variable: str | None) -> str:
    """The key, or "" if the server needs none. Its value appears in no message."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        found = "no key" if not key else "a value with characters that no key has (not printable ASCII)"
        raise ChatError(
            "the environment",
            found,
            "the endpoint's key",
            f"export {variable}=… (or set {_BLOCK}.key_variable to null)",
            variable,
        )
    return key


def _without(text: str, key: str) -> str:
    return text.replace(key, "[key]") if key else text
