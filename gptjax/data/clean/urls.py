"""The canonical form of a URL, under which two names of one page are the same."""

import ipaddress
import re
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

PORTS = {"http": 80, "https": 443, "ftp": 21}
TRACKING = frozenset(
    (
        "fbclid",
        "gclid",
        "gclsrc",
        "dclid",
        "gbraid",
        "wbraid",
        "msclkid",
        "yclid",
        "twclid",
        "igshid",
        "mc_cid",
        "mc_eid",
        "_ga",
        "_gl",
        "_hsenc",
        "_hsmi",
        "mkt_tok",
        "oly_anon_id",
        "oly_enc_id",
        "vero_id",
        "phpsessid",
        "jsessionid",
    )
)
"""Keys of a query that name a visitor or a campaign and not a page, beside utm_*."""
KEPT_IN_PATH = "/~:@!$&'()*+,;=-._"
KEPT_IN_QUERY = "-._~!$'()*,:@/?;"
PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def canonical(url: str) -> str:
    """Small letters in scheme and host, no default port, no final dot of the host, dot segments
    resolved, percent-encoding in one way, the query sorted without tracking keys, no fragment.

    >>> canonical("HTTP://Example.com.:80/a/../b/?utm_source=x&b=2&a=1#top")
    'http://example.com/b/?a=1&b=2'
    """
    url = "".join(url.split())
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except ValueError:
        return url  # no page has this address, and it is itself
    if not parts.netloc:
        return url
    scheme = parts.scheme.lower()
    place = host if port in (None, PORTS.get(scheme)) else f"{host}:{port}"
    path = _path(parts.path)
    query = _query(parts.query)
    return f"{scheme}://{place}{path}{'?' if query else ''}{query}"


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".").lower()
    if ":" in host:
        return f"[{ipaddress.ip_address(host).compressed}]"
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _path(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(_encoded(segment, KEPT_IN_PATH) for segment in kept)


def _query(query: str) -> str:
    pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    wanted = [(key, value) for key, value in pairs if not _tracks(key)]
    coded = [
        tuple(_encoded(part, KEPT_IN_QUERY).replace("%20", "+") for part in pair) for pair in wanted
    ]
    return "&".join(f"{key}={value}" for key, value in sorted(coded))


def _tracks(key: str) -> bool:
    key = key.lower()
    return key.startswith("utm_") or key in TRACKING


def _encoded(text: str, kept: str) -> str:
    """Percent-encoded where it must be and nowhere else."""
    text = PERCENT.sub("%25", text)
    reserved = "/?#[]@!$&'()*+,;=%"
    pieces = re.split(r"(%[0-9A-Fa-f]{2})", text)
    found = []
    for piece in pieces:
        if re.fullmatch(r"%[0-9A-Fa-f]{2}", piece):
            byte = unquote_to_bytes(piece)
            plain = byte[0] < 128 and (byte.isalnum() or byte in b"-._~")
            keep = chr(byte[0]) in reserved or not plain
            found.append(piece.upper() if keep else byte.decode())
        else:
            found.append(quote(piece, safe=kept + ("+" if kept is KEPT_IN_QUERY else "")))
    return "".join(found)
