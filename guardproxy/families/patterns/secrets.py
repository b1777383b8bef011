"""Formats of credentials that their issuers mark with a prefix, so that hardly any other text has them.

The prefixes, alphabets and lengths are those that the issuers document or that their keys have. They were compared with
the rules of gitleaks (github.com/gitleaks/gitleaks, MIT licence), none of which is copied here: rules that look for a
name beside a random text, such as `password = ...`, are left out, because they find harmless texts as well.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SecretFormat:
    """A format. After `most` characters at the latest, it is decided that a text is a key of it."""

    regex: str
    most: int
    unspaced: bool = True


_URL_SAFE = "[A-Za-z0-9_-]"

FORMATS: Final[dict[str, SecretFormat]] = {
    "anthropic_key": SecretFormat(rf"\bsk-ant-[a-z]{{3,8}}[0-9]{{2}}-{_URL_SAFE}{{80,160}}", 110),
    "aws_access_key": SecretFormat(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", 21),
    "digitalocean_token": SecretFormat(r"\bdo[opr]_v1_[a-f0-9]{64}\b", 75),
    "github_token": SecretFormat(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})", 94),
    "gitlab_token": SecretFormat(rf"\bgl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-{_URL_SAFE}{{20}}{_URL_SAFE}*", 36),
    "google_key": SecretFormat(rf"\b(?:AIza{_URL_SAFE}{{35}}|GOCSPX-{_URL_SAFE}{{28}})", 40),
    "groq_key": SecretFormat(r"\bgsk_[A-Za-z0-9]{52}\b", 57),
    "huggingface_token": SecretFormat(r"\bhf_[A-Za-z0-9]{34}\b", 38),
    "jwt": SecretFormat(rf"\beyJ{_URL_SAFE}{{10,}}\.eyJ{_URL_SAFE}{{10,}}\.{_URL_SAFE}{{20,}}", 2000),
    "npm_token": SecretFormat(r"\bnpm_[A-Za-z0-9]{36}\b", 41),
    "nvidia_key": SecretFormat(rf"\bnvapi-{_URL_SAFE}{{60}}{_URL_SAFE}*", 68),
    "openai_key": SecretFormat(
        rf"\bsk-(?:proj-|svcacct-|admin-)?{_URL_SAFE}{{20,74}}T3BlbkFJ{_URL_SAFE}{{20,74}}", 115
    ),
    "private_key": SecretFormat(
        r"-----BEGIN (?:(?:RSA|DSA|EC|OPENSSH|ENCRYPTED|PGP) ){0,2}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[A-Za-z0-9+/=\s:,.()-]*?-----END [A-Z ]{11,40}-----)?",
        60,
        unspaced=False,
    ),
    "pypi_token": SecretFormat(rf"\bpypi-AgE{_URL_SAFE}{{50}}{_URL_SAFE}*", 60),
    "replicate_token": SecretFormat(r"\br8_[A-Za-z0-9]{37}\b", 41),
    "sendgrid_key": SecretFormat(rf"\bSG\.{_URL_SAFE}{{22}}\.{_URL_SAFE}{{43}}", 70),
    "slack_token": SecretFormat(r"\bxox[abeoprs]-[A-Za-z0-9-]{20}[A-Za-z0-9-]*", 27),
    "slack_webhook": SecretFormat(
        # Some writers of JSON put a backslash before each slash.
        r"hooks\.slack\.com\\{0,3}/(?:services|workflows)\\{0,3}/T[A-Za-z0-9]{8,12}\\{0,3}/[AB][A-Za-z0-9]{8,12}"
        r"\\{0,3}/[A-Za-z0-9]{17,46}",
        92,
    ),
    "stripe_key": SecretFormat(r"\b[rs]k_(?:live|prod)_[A-Za-z0-9]{24}[A-Za-z0-9]*", 34),
    "xai_key": SecretFormat(r"\bxai-[A-Za-z0-9]{70}[A-Za-z0-9]*", 76),
}
