"""What a replica needs that runs outside a pod: the file that names the namespace of its service account."""

import os
import subprocess

import pytest
from tests.e2e.role import NAMESPACE

_MOUNT = (
    "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount"
    f" && printf %s {NAMESPACE} > /run/secrets/kubernetes.io/serviceaccount/namespace"
    ' && exec "$@"'
)
AS_POD = ["unshare", "--mount", "sh", "-c", _MOUNT, "sh"]
"""Runs a command in a mount namespace of its own, where it finds that file."""


def _can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run([*AS_POD, "true"], check=False, capture_output=True).returncode == 0


needs_mount_namespaces = pytest.mark.skipif(
    not _can_mount(), reason="leader election needs a service account's files, which need a mount namespace (be root)"
)
