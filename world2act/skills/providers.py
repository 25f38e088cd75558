"""The language provider that params.yaml names, with its journal. Libraries of one provider are imported with it."""

from __future__ import annotations

from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.params import Skills
from world2act.skills.journal import Journal
from world2act.skills.language import LanguageProvider
from world2act.skills.model_provider import Chat, ModelProvider
from world2act.skills.prompts import PromptFile
from world2act.skills.schema import SchemaProvider

_WRITE = {
    "openai": "skills: {openai: {base_url: https://…, model: …, key_variable: OPENAI_API_KEY, response_format: "
    "json_schema, temperature: 0.0, max_tokens: 4096, max_tokens_field: max_tokens, timeout_s: 120.0, retries: 5, "
    "requests_per_minute: 60.0, concurrency: 8, price_per_million: {prompt: 0.0, completion: 0.0}}}",
    "transformers": "skills: {transformers: {path: …, sha256: …, device: cpu, dtype: float32, batch_size: 4, "
    "max_tokens: 512}}",
}


def make_provider(skills: Skills, *, journal: Path, finished: Path) -> LanguageProvider:
    """Build the provider `skills.provider`. Known answers are read from both files; new ones go to `journal`.

    Raises:
        BadInput: the provider's block, or a file that it names, is missing or damaged.
    """
    if skills.provider == "schema":
        return SchemaProvider(skills.schema_file)
    block = getattr(skills, skills.provider)
    if block is None:
        raise BadInput(
            "params.yaml",
            f"skills.{skills.provider}",
            "null",
            f"the settings of the provider {skills.provider}",
            f"write {_WRITE[skills.provider]} into a profile (docs/demonstrations.md explains each key)",
        )
    chat: Chat
    if skills.provider == "openai":
        from world2act.skills.openai_chat import OpenAIChat

        chat = OpenAIChat(block)
    else:
        from world2act.skills.transformers_chat import TransformersChat

        chat = TransformersChat(block)
    return ModelProvider(chat, PromptFile(skills.prompt_file), Journal(journal, finished))
