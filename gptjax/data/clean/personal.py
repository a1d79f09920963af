"""Personal data and secrets, masked: mail and network addresses, phone numbers, keys.

Each kind is counted; what was found is told to nobody. Network addresses of private ranges are no
personal data and stay.
"""

import dataclasses
import ipaddress
import re
from collections.abc import Callable

from gptjax.data.clean.documents import Document, Judge, Verdict
from gptjax.fields import setting

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
PREFIXES = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # Amazon
    r"gh[pousr]_[A-Za-z0-9]{36,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{50,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"sk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}",  # OpenAI and those after it
    r"hf_[A-Za-z0-9]{30,}",
    r"xox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"[sr]k_live_[A-Za-z0-9]{20,}",  # Stripe
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
)

KEY_PARTS = (
    *("AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-"),
    *("hf_", "xox", "AIza", "k_live_", "eyJ"),
)
"""Every key of PREFIXES has one of them."""
DIGIT = re.compile(r"\d")


def _anything(found: str) -> bool:
    return True


def _public(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _is_phone(found: str) -> bool:
    """From seven digits to the fifteen of E.164."""
    return 7 <= sum(map(str.isdigit, found)) <= 15


def _with_one_of(*parts: str) -> Callable[[str], bool]:
    return lambda text: any(part in text for part in parts)


def _with_a_digit(text: str) -> bool:
    return DIGIT.search(text) is not None


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of personal data.

    Attributes:
      name: in settings and counts.
      pattern: what it looks like.
      mask: what is written in its place.
      hint: False for texts without any, which is told sooner than by the pattern.
      holds: a check of what the pattern found.
    """

    name: str
    pattern: re.Pattern
    mask: str
    hint: Callable[[str], bool]
    holds: Callable[[str], bool] = _anything


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "key",
            re.compile(
                r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)|"
                rf"\b(?:{'|'.join(PREFIXES)})(?![A-Za-z0-9])",
                re.DOTALL,
            ),
            "|||KEY|||",
            _with_one_of("-----BEGIN ", *KEY_PARTS),
        ),
        Kind(
            "mail",
            re.compile(rf"\b{ATOM}(?:\.{ATOM})*+@(?:{LABEL}\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"),
            "|||EMAIL_ADDRESS|||",
            _with_one_of("@"),
        ),
        Kind(
            "ipv4",
            re.compile(rf"(?<![\w.])(?:{OCTET}\.){{3}}{OCTET}(?!\w|\.\d)"),
            "|||IP_ADDRESS|||",
            _with_a_digit,
            _public,
        ),
        Kind(
            "ipv6",
            re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"),
            "|||IP_ADDRESS|||",
            _with_one_of(":"),
            _public,
        ),
        Kind(
            "phone",
            re.compile(
                r"(?<![\w.+-])(?:\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}|"
                r"\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?![\w-]|\.\d)"
            ),
            "|||PHONE_NUMBER|||",
            _with_a_digit,
            _is_phone,
        ),
    )
}
"""By name, in the order in which they are looked for."""


@dataclasses.dataclass(frozen=True)
class PersonalConfig:
    """Which kinds are masked."""

    kinds: tuple[str, ...] = setting(tuple(KINDS), "kinds that are masked", choices=KINDS)


def make(config: PersonalConfig) -> Judge:
    """The masker of these kinds; it drops nothing."""

    def judge(document: Document) -> Verdict:
        text, counts = masked(document.text, config.kinds)
        return Verdict(text=text, counts=counts)

    return judge


def masked(text: str, kinds: tuple[str, ...] = tuple(KINDS)) -> tuple[str, dict[str, int]]:
    """The text with masks, and how many of each kind were found.

    >>> masked("Write to ada@example.org or 10.0.0.1")
    ('Write to |||EMAIL_ADDRESS||| or 10.0.0.1', {'mail': 1})
    """
    counts: dict[str, int] = {}
    for name, kind in KINDS.items():
        if name in kinds and kind.hint(text):
            text = _mask(kind, text, counts)
    return text, counts


def _mask(kind: Kind, text: str, counts: dict[str, int]) -> str:
    def replacement(match: re.Match) -> str:
        if not kind.holds(match.group()):
            return match.group()
        counts[kind.name] = counts.get(kind.name, 0) + 1
        return kind.mask

    return kind.pattern.sub(replacement, text)
