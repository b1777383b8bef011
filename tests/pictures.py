"""Pictures, and a moderation service that finds red ones harmful, as OpenAI's answers.

The form of the answers is that of platform.openai.com/docs/guides/moderation: the labels that apply to images are those
that the guide's table names for text and images, and a second image in a call is an error.
"""

import base64
import io
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.families.openai_moderation import OMNI

BAD = "kill"  # what a text must not say
OF_IMAGES = ("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "violence", "violence/graphic")


def picture(colour: str = "green", kind: str = "PNG", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """A picture of one colour as a file of this kind."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **options)
    return file.getvalue()


def animation(kind: str = "GIF") -> bytes:
    """Two frames, the second of which is red."""
    file = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("green", "red")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """A data URL."""
    return f"data:{media_type};base64,{encoded(data)}"


def is_red(data: bytes) -> bool:
    """Whether the middle of a picture is red."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixel: Any = image.getpixel((image.width // 2, image.height // 2))
    return bool(pixel[0] > 200 and pixel[1] < 80)


@dataclass
class Moderation:
    """The service; `bodies` are those of the calls."""

    bodies: list[Any] = field(default_factory=list)
    blind: bool = False

    @property
    def app(self) -> Starlette:
        """The application of its server."""
        return Starlette(routes=[Route("/v1/moderations", self._answer, methods=["POST"])])

    @property
    def of_images(self) -> list[list[Any]]:
        """The inputs of the calls with an image."""
        return [body["input"] for body in self.bodies if not isinstance(body["input"][0], str)]

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        given = body["input"]
        if all(isinstance(item, str) for item in given):
            results = [_result(text, None) for text in given]
        else:
            urls = [item["image_url"]["url"] for item in given if item["type"] == "image_url"]
            if len(urls) > 1:
                error = {"message": "Too many images. Maximum 1 image per request.", "code": "too_many_images"}
                return JSONResponse({"error": error}, 400)
            text = "\n".join(item["text"] for item in given if item["type"] == "text")
            results = [_result(text, None if self.blind else base64.b64decode(urls[0].partition(",")[2]))]
        return JSONResponse({"id": "modr-1", "model": body["model"], "results": results})


def _result(text: str, image: bytes | None) -> dict[str, Any]:
    bad = 0.97 if BAD in text else 0.001
    scores = dict.fromkeys(OMNI, 0.0) | {"illicit": bad}
    if image is not None and is_red(image):
        scores["sexual"] = 0.95
    types = {name: ["text", "image"] if image is not None and name in OF_IMAGES else ["text"] for name in OMNI}
    return {
        "flagged": max(scores.values()) > 0.5,
        "categories": {name: score > 0.5 for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": types,
    }
