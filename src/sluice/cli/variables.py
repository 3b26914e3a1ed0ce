"""Fill in ``${NAME}``, as Flux does after a Kustomization is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sluice.core.errors import Code, Problem

SWITCH = "kustomize.toolkit.fluxcd.io/substitute"
"""The label or annotation that, set to ``disabled``, keeps an object as it is."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_FORM = re.compile(rf"({NAME.pattern})(?::[-=](.*))?", re.DOTALL)


def substitute(manifest: Mapping[str, Any], variables: Mapping[str, str], problems: list[Problem]) -> Mapping[str, Any]:
    """An object with the variables in its texts filled in; notes those that are not defined.

    ``${NAME:=text}`` and ``${NAME:-text}`` have a default, for a variable that is unset or empty;
    ``$${`` stands for ``${``. Keys stay as they are.
    """
    metadata = manifest.get("metadata")
    for field in ("labels", "annotations"):
        switches = metadata.get(field) if isinstance(metadata, Mapping) else None
        if isinstance(switches, Mapping) and switches.get(SWITCH) == "disabled":
            return manifest
    filled = _fill(manifest, variables, "", problems)
    assert isinstance(filled, Mapping)
    return filled


def _fill(value: object, variables: Mapping[str, str], where: str, problems: list[Problem]) -> object:
    match value:
        case str():
            return value if "${" not in value else _fill_text(value, variables, where, problems)
        case Mapping():
            return {
                key: _fill(item, variables, f"{where}.{key}" if where else key, problems) for key, item in value.items()
            }
        case list():
            return [_fill(item, variables, f"{where}[{number}]", problems) for number, item in enumerate(value)]
        case _:
            return value


def _fill_text(text: str, variables: Mapping[str, str], where: str, problems: list[Problem]) -> str:
    def fill(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        form = _FORM.fullmatch(found[1] or "")
        if form is None:
            what = f"'{found[0]}' is not a variable (${{NAME}}, ${{NAME:=default}} or ${{NAME:-default}})"
            problems.append(Problem(Code.INVALID_SPEC, what, where))
            return ""
        name, default = form.groups()
        if default is not None:
            return variables.get(name) or default
        if name not in variables:
            problems.append(Problem(Code.INVALID_SPEC, f"variable '{name}' is not set (--var {name}=VALUE)", where))
        return variables.get(name, "")

    return _REFERENCE.sub(fill, text)
