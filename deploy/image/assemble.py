"""Assemble the file system of the image: an interpreter, the libraries that it loads, and Sluice. Nothing else.

Run as root by the interpreter that goes in: ``python deploy/image/assemble.py ROOT WHEEL``. It holds no shell and no
package manager, is compiled beforehand, and is the same whenever it is made from the same parts.
"""

import compileall
import os
import py_compile
import re
import shutil
import ssl
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements" / "runtime.txt"
APPLICATION = "app"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

# Parts of the library that need what is not there, such as a display, or that only developers use.
UNUSED = shutil.ignore_patterns(
    "__pycache__", "site-packages", "dist-packages", "config-*", "test", "tests", "idlelib", "tkinter", "turtledemo",
    "turtle.py", "ensurepip", "lib2to3", "pydoc_data", "venv", "_tkinter.*", "_sqlite3.*", "sqlite3", "readline.*",
    "_curses*", "_dbm.*", "_gdbm.*", "_test*", "_xx*", "xx*", "_ctypes_test.*",
)  # fmt: skip

ENTRY = """#!{python} -I
import sys

sys.path.insert(0, "/{application}")

from sluice.cli import main

main()
"""


def assemble(root: Path, wheel: Path) -> None:
    """Fill an empty directory."""
    python = _copy_interpreter(root)
    _install(root / APPLICATION, wheel)
    _copy_libraries(root)
    _write_system_files(root)
    entry = root / "usr/local/bin/sluice"
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.write_text(ENTRY.format(python=python, application=APPLICATION))
    entry.chmod(0o755)
    _compile(root)
    _settle(root)


def _copy_interpreter(root: Path) -> Path:
    python = Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}").resolve()
    library = Path(sysconfig.get_path("stdlib"))
    _copy(python, root)
    shutil.copytree(library, root / library.relative_to("/"), ignore=UNUSED, symlinks=True)
    return python


def _install(target: Path, wheel: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
    ]
    pip += ["--root-user-action=ignore", "--upgrade", f"--target={target}"]
    subprocess.run([*pip, "--require-hashes", "--only-binary=:all:", "-r", str(REQUIREMENTS)], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    shutil.rmtree(target / "bin")  # their shebangs name the interpreter of the build
    for record in target.glob("flux_sluice-*.dist-info/*"):
        if record.name in ("RECORD", "direct_url.json"):  # say where the wheel was
            record.unlink()


def _copy_libraries(root: Path) -> None:
    folders = set()
    for binary in _binaries(root):
        for library in _needed(binary):
            if not library.is_relative_to(root) and not (root / library.relative_to("/")).exists():
                _copy(library, root)
                folders.add(str(library.parent))
    configuration = root / "etc/ld.so.conf"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text("".join(f"{folder}\n" for folder in sorted(folders)))
    subprocess.run(["ldconfig", "-X", "-r", str(root)], check=True)
    shutil.rmtree(root / "var/cache", ignore_errors=True)  # remembers times of this machine


def _binaries(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _needed(binary: Path) -> list[Path]:
    """The libraries that the loader finds for a program or library, itself included."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    missing = re.findall(r"^\s*(\S+) => not found", listed.stdout, re.MULTILINE)
    if missing:
        raise SystemExit(f"{binary}: no {', '.join(missing)}")
    return [Path(path) for path in re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listed.stdout, re.MULTILINE)]


def _copy(path: Path, root: Path) -> None:
    """Copy a file to the same place below the root, links followed."""
    place = root / path.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place)


def _write_system_files(root: Path) -> None:
    (root / "etc/passwd").write_text("nobody:x:65534:65534:nobody:/tmp:/sbin/nologin\n")
    (root / "etc/group").write_text("nogroup:x:65534:\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    certificates = root / CERTIFICATES
    certificates.parent.mkdir(parents=True, exist_ok=True)
    for name in ("/" + CERTIFICATES, ssl.get_default_verify_paths().cafile):
        if name and Path(name).is_file():
            shutil.copy(name, certificates)
            break
    else:
        raise SystemExit("there are no certificates of authorities (install ca-certificates)")
    for name in ("data", "tmp", "dev", "proc", "sys", "var/run/secrets/kubernetes.io/serviceaccount"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)


def _compile(root: Path) -> None:
    # Never checked against the source: nobody can change it there, and the check costs a look at every file.
    done = compileall.compile_dir(
        root, maxlevels=50, quiet=2, stripdir=str(root), prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
    if not done:
        raise SystemExit("a module does not compile")


def _settle(root: Path) -> None:
    """Give every file one time, and nobody the right to change it."""
    time = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(0o1777 if mode & stat.S_ISVTX else 0o755 if path.is_dir() or mode & stat.S_IXUSR else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)


if __name__ == "__main__":
    assemble(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
