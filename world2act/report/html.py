"""What pages share: templates, the style sheet, and pictures embedded in the page, which makes it self-contained."""

from __future__ import annotations

import base64
import io
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from world2act.report.wording import label, memory, percent, points, seconds, words


def load_template(name: str) -> Template:
    """A template of this package, with the filters of `world2act.report.wording`."""
    environment = Environment(
        loader=PackageLoader("world2act.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for write in (label, memory, percent, points, seconds, words):
        environment.filters[write.__name__] = write
    return environment.get_template(name)


def style() -> Markup:
    """The style sheet of all pages."""
    return Markup(files("world2act.report").joinpath("report.css").read_text(encoding="utf-8"))


def png(image: np.ndarray) -> str:
    """A picture, uint8 (H, W, 3), as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
