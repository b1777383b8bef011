"""Guards that are moderation services."""

import pytest

from guardproxy.errors import ConfigError
from tests.settings.kit import RULES, read

SERVICE = f"""version: 1
guard: {{family: openai_moderation, service: {{key: "${{env:KEY}}"}}}}
policies: {{default: {{{RULES}}}}}
"""


def test_key_from_the_environment() -> None:
    """The key is read from the environment and is not part of the repr."""
    settings = read(SERVICE, {"KEY": "k-1"})
    assert settings.guard.service is not None
    assert settings.guard.service.key == "k-1"
    assert "k-1" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SERVICE, "f.yaml:2:51: guard.service.key: environment variable KEY is not set"),
        (SERVICE.replace("${env:KEY}", "k-1"), "guard.service.key: a secret does not belong in the file"),
        (SERVICE.replace("family:", "device: cpu, family:"), "guard.device: has no effect"),
        (SERVICE.replace("openai_moderation", "classifier"), "guard.service: has no effect"),
        (SERVICE.replace(', service: {key: "${env:KEY}"}', ""), "guard.service: is missing"),
    ],
)
def test_mistakes(text: str, problem: str) -> None:
    """Each mistake is reported for its setting."""
    with pytest.raises(ConfigError) as raised:
        read(text)
    assert any(problem in line for line in raised.value.problems), raised.value.problems
