from sluice.build import compose_plan, revisions
from sluice.cache import UnpackedCache
from sluice.core.compose import Composition
from sluice.core.dialect import DOCUMENTED, UPSTREAM
from sluice.core.errors import BuildError, SluiceError, SourceError, SpecError, StorageError
from sluice.core.limits import DEFAULT_LIMITS, Limits
from sluice.core.pathpattern import Failure
from sluice.core.plan import ArtifactPlan, Source, plan_artifacts
from sluice.core.spec import ArtifactGenerator, parse_manifests
from sluice.core.tar import write_archive
from sluice.core.tree import Directory, File
from sluice.core.untar import read_archive
from sluice.sources import open_source

__version__: str

__all__ = [
    "DEFAULT_LIMITS",
    "DOCUMENTED",
    "UPSTREAM",
    "ArtifactGenerator",
    "ArtifactPlan",
    "BuildError",
    "Composition",
    "Directory",
    "Failure",
    "File",
    "Limits",
    "SluiceError",
    "Source",
    "SourceError",
    "SpecError",
    "StorageError",
    "UnpackedCache",
    "compose_plan",
    "open_source",
    "parse_manifests",
    "plan_artifacts",
    "read_archive",
    "revisions",
    "write_archive",
]
