"""Label selectors, checked before the API server sees them."""

from __future__ import annotations

import re

from sluice.kube.config import ConfigError

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/"
_KEY = rf"({_PREFIX})?{_NAME}"
_VALUE = rf"({_NAME})?"
_VALUES = rf"\(\s*{_VALUE}\s*(,\s*{_VALUE}\s*)*\)"
_REQUIREMENT = re.compile(
    rf"\s*(!\s*{_KEY}|{_KEY}(\s*(==|=|!=)\s*{_VALUE}|\s+(in|notin)\s+{_VALUES}|\s*[<>]\s*\d+)?)\s*"
)


def check_selector(text: str) -> None:
    """Raise `ConfigError` for what is not a label selector."""
    for requirement in _split(text) if text.strip() else ():
        if not _REQUIREMENT.fullmatch(requirement):
            raise ConfigError(
                f"--watch-label-selector: '{requirement.strip()}' is not a requirement"
                " (such as key=value, key!=value, key in (a,b), key notin (a), key, !key)"
            )


def _split(text: str) -> list[str]:
    """The requirements of a selector: at its commas, but not at those within parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
