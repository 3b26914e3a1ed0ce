"""Sluice composes and decomposes Flux sources into ExternalArtifacts."""

__version__ = "0.1.0"
