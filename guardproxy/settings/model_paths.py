"""The section `paths`, and the requests that it lets pass unread."""

from dataclasses import dataclass
from typing import Literal

PASS_PATHS = (
    "GET /",
    "GET /v1/models",
    "GET /v1/models/**",
    "POST /v1/models/*:countTokens",
    "POST /v1/messages/count_tokens",
    "GET /v1beta/models",
    "GET /v1beta/models/*",
    "POST /v1beta/models/*:countTokens",
    "GET /api/tags",
    "POST /api/show",
    "GET /api/version",
    "GET /api/ps",
)
PATH_PRESETS: dict[str, tuple[str, ...]] = {
    "files": (
        "GET /v1/files",
        "POST /v1/files",
        "GET /v1/files/*",
        "DELETE /v1/files/*",
        "GET /v1/files/*/content",
        "POST /v1/uploads",
        "POST /v1/uploads/*/parts",
        "POST /v1/uploads/*/complete",
        "POST /v1/uploads/*/cancel",
    ),
    "images": ("POST /v1/images/generations", "POST /v1/images/edits", "POST /v1/images/variations"),
    "audio": ("POST /v1/audio/speech", "POST /v1/audio/transcriptions", "POST /v1/audio/translations"),
}
"""Endpoints of OpenAI's API whose content no guard reads, by the word that lets them pass."""


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Requests that pass or are refused by method and path. A request that neither list nor wire covers is refused."""

    allow: tuple[str, ...] = PASS_PATHS
    """Requests that pass unread: `METHOD /path`, with * for any text without / and :, ** for any text."""
    presets: tuple[Literal["files", "images", "audio"], ...] = ()
    """Endpoints for files, images or audio that pass unread, in addition to `allow`: nobody judges what they carry."""
    refuse: tuple[str, ...] = ()
    """Requests that are refused even if a wire could read them: `METHOD /path`, with * for any text."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """All requests that pass unread: `allow` and those of the presets."""
        return (*self.allow, *(entry for preset in self.presets for entry in PATH_PRESETS[preset]))
