"""The section `skills` of params.yaml: calibration of the embodiments, and who splits the instructions."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from world2act.core.params.section import Count, Positive, Section


class Contact(Section):
    """Calibrated open width w_0 and closure threshold of one embodiment, metres."""

    open_width_m: Positive
    threshold_m: Positive
    release_m: Positive
    min_frames: Count


class Touch(Section):
    """Outer force on one embodiment's hand, newtons: touch begins at `threshold_n` and ends below `release_n`."""

    threshold_n: Positive
    release_n: Positive
    min_frames: Count


class Motion(Section):
    """What one embodiment's end effector does where it turns: it moves at least `stroke_m` metres in the
    `window_frames` before and again in those after, and the two directions differ by at least `turn_deg`. The arm
    turns `response_frames` after it was told to."""

    window_frames: Count
    turn_deg: Annotated[float, Field(gt=0, lt=180)]
    stroke_m: Positive
    response_frames: Annotated[int, Field(ge=0)]


def _safe_url(value: str) -> str:
    """https, or plain http to this machine; what does not pass is shown without what may be a credential."""
    try:
        url = urlsplit(value)
        host = url.hostname or ""
        local = host == "localhost" or ((host[:1].isdigit() or ":" in host) and ip_address(host).is_loopback)
    except ValueError:
        raise _unfit("an address that cannot be read") from None
    if not host or not (url.scheme == "https" or (url.scheme == "http" and local)):
        raise _unfit(f"{url.scheme}://{host}")
    if "@" in url.netloc or url.query or url.fragment:
        raise _unfit("an address with a user, a password or a query in it")
    return value


def _unfit(found: str) -> PydanticCustomError:
    expected = "https, or http to this machine; a key only in the environment"
    return PydanticCustomError("unfit", expected, {"found": found})


def _variable_name(value: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
        raise PydanticCustomError(
            "unfit", "the NAME of an environment variable", {"found": "something else, not shown in case it is a key"}
        )
    return value


class Price(Section):
    """A million tokens, in the currency of your bill."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


class OpenAIEndpoint(Section):
    """key_variable: the environment variable that holds the key, or null. response_format: what the server can hold a
    model to. temperature: null where the model takes none. timeout_s: of one try as a whole.
    """

    base_url: Annotated[str, AfterValidator(_safe_url)]
    model: str = Field(min_length=1)
    key_variable: Annotated[str, AfterValidator(_variable_name)] | None
    response_format: Literal["json_schema", "json_object", "text"]
    temperature: Annotated[float, Field(ge=0)] | None
    max_tokens: Count
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"]
    timeout_s: Positive
    retries: Annotated[int, Field(ge=0)]
    requests_per_minute: Positive
    concurrency: Count
    price_per_million: Price


class LocalModel(Section):
    """A folder that `save_pretrained` wrote. sha256: of the folder, as the error about another one says it."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_size: Count
    max_tokens: Count


class Skills(Section):
    """divide: false leaves each episode whole, its instruction being the prompt: the paper's Base-WM."""

    divide: bool
    provider: Literal["schema", "openai", "transformers"]
    schema_file: str
    prompt_file: str
    openai: OpenAIEndpoint | None
    transformers: LocalModel | None
    contact: dict[str, Contact]
    motion: dict[str, Motion]
    touch: dict[str, Touch]
