"""Sluice composes and decomposes Flux sources into ExternalArtifacts."""
