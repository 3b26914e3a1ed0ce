"""Synthetic sources: trees that look like repositories of manifests. Same arguments, same bytes."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable, Mapping

from isal import igzip

Tree = Mapping[str, bytes]

_SERVICE = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: {name}, app.kubernetes.io/instance: "{serial:016x}"}}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app.kubernetes.io/name: {name}}}
  template:
    metadata:
      labels: {{app.kubernetes.io/name: {name}}}
    spec:
      containers:
        - name: main
          image: registry.example/{name}@sha256:{digest:064x}
          env:
"""


def manifest(name: str, seed: int, size: int) -> bytes:
    """A Deployment of `size` bytes, of which gzip leaves about a fifth."""
    random_ = random.Random(seed)
    serial, replicas, digest = random_.getrandbits(64), random_.randint(1, 9), random_.getrandbits(256)
    text = _SERVICE.format(name=name, serial=serial, replicas=replicas, digest=digest)
    values = random_.randbytes(size // 16).hex()
    lines = [
        f"            - {{name: SETTING_{number:03}, value: http://{values[at : at + 9]}.{name}.svc:80}}\n"
        for number, at in enumerate(range(0, len(values), 9))
    ]
    return (text + "".join(lines)).encode().ljust(size, b"#")[: size - 1] + b"\n"


def monorepo(teams: int, apps: int, files: int, size: int) -> dict[str, bytes]:
    """`apps/teamN/appN/fileN.yaml`, each of about `size` bytes."""
    return {
        f"apps/team{team:03}/app{app}/file{file}.yaml": manifest(
            f"app-{team}-{app}-{file}", (team * apps + app) * files + file, size
        )
        for team in range(teams)
        for app in range(apps)
        for file in range(files)
    }


def touched(tree: Tree, paths: Iterable[str], mark: str) -> dict[str, bytes]:
    """The tree with one more comment in each of the given files."""
    return {**tree, **{path: tree[path] + f"# {mark}\n".encode() for path in paths}}


def packed(tree: Tree) -> bytes:
    """The archive of a tree as a source has it: sorted, epoch times, gzip."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(tree):
            member = tarfile.TarInfo(path)
            member.size = len(tree[path])
            archive.addfile(member, io.BytesIO(tree[path]))
    return igzip.compress(plain.getvalue(), 3)
