"""Sluice composes and decomposes Flux sources into ExternalArtifacts.

The names in `__all__` are the public API; everything else may change. Each is imported when it is
first used, so that ``import sluice`` costs next to nothing; for type checkers they stand in the stub.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "sluice.build": ("compose_plan", "revisions"),
    "sluice.cache": ("UnpackedCache",),
    "sluice.core.compose": ("Composition",),
    "sluice.core.dialect": ("DOCUMENTED", "UPSTREAM"),
    "sluice.core.errors": ("BuildError", "SluiceError", "SourceError", "SpecError", "StorageError"),
    "sluice.core.limits": ("DEFAULT_LIMITS", "Limits"),
    "sluice.core.pathpattern": ("Failure",),
    "sluice.core.plan": ("ArtifactPlan", "Source", "plan_artifacts"),
    "sluice.core.spec": ("ArtifactGenerator", "parse_manifests"),
    "sluice.core.tar": ("write_archive",),
    "sluice.core.tree": ("Directory", "File"),
    "sluice.core.untar": ("read_archive",),
    "sluice.sources": ("open_source",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULES)  # the table above is the one place that lists them


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'sluice' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
