"""How much of anything the engine accepts."""

from __future__ import annotations

from msgspec import Struct

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Limits(Struct, frozen=True):
    """Upper bounds against hostile or mistaken input; sizes are in bytes.

    The defaults are far above what real repositories hold. An error names the field and its
    value, so that whoever meets one knows what to set.
    """

    download_size: int = 2 * GIB
    """A fetched source, as it comes over the wire."""
    source_size: int = 8 * GIB
    """A source after decompression."""
    ratio: int = 200
    """Decompressed over compressed size, looked at beyond `ratio_threshold`."""
    ratio_threshold: int = 64 * MIB
    entries: int = 1_000_000
    """Entries of one archive or local directory."""
    name_length: int = 4 * KIB
    """One path, in bytes."""
    names_size: int = 128 * MIB
    """All paths of one archive together, in bytes."""
    depth: int = 255
    """Directories above an entry."""
    extract_size: int = 100 * MIB
    """One archive unpacked by the Extract strategy."""
    artifact_size: int = 2 * GIB
    """One artifact before compression."""
    yaml_size: int = 10 * MIB
    """One YAML file that is parsed."""
    yaml_depth: int = 100
    yaml_aliases: int = 10_000
    yaml_nodes: int = 1_000_000
    """Nodes of one YAML file after aliases and merge keys are resolved."""
    pattern_length: int = 1024
    """One glob or exclude, in characters."""
    pattern_alternatives: int = 100
    """What the braces of one pattern expand to."""
    artifacts: int = 1000
    """Artifacts of one generator, after pathPattern is expanded."""
    cache_size: int = 4 * GIB
    """Decompressed sources kept on disk."""


DEFAULT_LIMITS = Limits()
