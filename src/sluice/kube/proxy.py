"""Which proxy the environment asks for, by the rules that Kubernetes' own clients follow."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(environ: Mapping[str, str], url: str) -> str:
    """The proxy for a URL, or an empty text; never one for loopback or what `NO_PROXY` names."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    if not proxy or _is_excluded(environ.get("NO_PROXY") or environ.get("no_proxy") or "", parts.hostname or ""):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_excluded(rules: str, host: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    return any(_matches(rule.strip().lower(), host, address) for rule in rules.split(","))


def _matches(rule: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if rule == "*":
        return True
    if address:
        try:
            return address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    # "example.com" also means what is below it, ".example.com" and "*.example.com" only that.
    domain = rule.removeprefix("*")
    return bool(domain) and (host == domain or host.endswith("." + domain.removeprefix(".")))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
