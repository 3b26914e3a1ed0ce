"""Speak to a Kubernetes API: requests, watches and leader election, and nothing that reconciles."""
