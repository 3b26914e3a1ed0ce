"""Run the image's file system as a container runtime would: read-only, without privileges, with limited memory.

It takes Linux and root, and no container engine: a mount namespace, chroot and a control group do the same.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

USER, GROUP = 65534, 1337
TOOLS = ("unshare", "mount", "setpriv", "chroot", "ldconfig", "ldd")

# The last exec makes the process the program itself, so that signals reach it.
CONFINE = """
set -eu
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro,nosuid "$ROOT"
mount --rbind /dev "$ROOT/dev"
mount --rbind /proc "$ROOT/proc"
mount --bind "$WRITABLE/data" "$ROOT/data"
mount --bind "$WRITABLE/tmp" "$ROOT/tmp"
mount --bind "$ACCOUNT" "$ROOT/var/run/secrets/kubernetes.io/serviceaccount"
if [ -n "$MEMORY_GROUP" ]; then echo $$ > "$MEMORY_GROUP/cgroup.procs"; else ulimit -v "$((MEMORY / 1024))"; fi
exec setpriv --no-new-privs env --ignore-environment "$@"
"""


def obstacle() -> str:
    """Why nothing can be confined here; empty where it can."""
    if os.geteuid() != 0:
        return "the image is tried as root, with a mount namespace of its own"
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"the image is tried with {', '.join(missing)}"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "the image is tried in a mount namespace, which is not allowed here"
    return ""


@contextmanager
def memory_group(limit: int) -> Iterator[str]:
    """A control group with a limit; nothing where none can be made: then address space is limited instead."""
    name = f"sluice-{secrets.token_hex(4)}"
    for base, setting in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(base, name)
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / setting).exists():
                (group / setting).write_text(str(limit))
                yield str(group)
                return
        finally:
            group.rmdir()
    yield ""


@contextmanager
def confined(
    root: Path, writable: Path, command: Sequence[str], *, environment: Mapping[str, str], memory: int, account: Path
) -> Iterator[subprocess.Popen[str]]:
    """Start a command of the image; only `data` and `tmp` of `writable` can be written."""
    _prepare(writable)
    inner = [
        *_assignments(environment),
        "chroot",
        f"--userspec={USER}:{USER}",
        f"--groups={GROUP}",
        str(root),
        *command,
    ]
    with memory_group(memory) as group:
        outer = {**os.environ, "ROOT": str(root), "WRITABLE": str(writable), "ACCOUNT": str(account)}
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", CONFINE, "sh", *inner],
            env={**outer, "MEMORY": str(memory), "MEMORY_GROUP": group},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def _prepare(writable: Path) -> None:
    # As the kubelet makes an emptyDir for a pod with a group of its own.
    for name in ("data", "tmp"):
        (writable / name).mkdir()
        os.chown(writable / name, 0, GROUP)
        (writable / name).chmod(0o2777)


def _assignments(environment: Mapping[str, str]) -> Iterable[str]:
    # The tools of the way in are found by this PATH too.
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    return [f"{name}={value}" for name, value in {**environment, **path}.items()]
