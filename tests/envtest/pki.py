"""A certificate authority for the tests: one that the API server and its clients trust."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

CA_EXTENSIONS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
LEAF_EXTENSIONS = (
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
    "extendedKeyUsage=serverAuth,clientAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates that end within two days."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own = self._pair("ca")
        new_key(self._own.key)
        self._sign(self._own, "/CN=test authority", CA_EXTENSIONS, ["-key", str(self._own.key)])

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def issue(self, name: str, *, groups: tuple[str, ...] = (), hosts: str = "") -> Pair:
        """A certificate for a common name, with groups as its organizations and `hosts` as alternative names."""
        pair = self._pair(name.replace(":", "-").replace("/", "-"))
        new_key(pair.key)
        public = pair.key.with_suffix(".pub")
        _openssl("pkey", "-in", str(pair.key), "-pubout", "-out", str(public))
        subject = "".join(f"/O={_escaped(group)}" for group in groups) + f"/CN={_escaped(name)}"
        extensions = LEAF_EXTENSIONS + (f"subjectAltName={hosts}\n" if hosts else "")
        signer = ["-CA", str(self._own.certificate), "-CAkey", str(self._own.key), "-force_pubkey", str(public)]
        self._sign(pair, subject, extensions, signer)
        return pair

    def _pair(self, name: str) -> Pair:
        return Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")

    def _sign(self, pair: Pair, subject: str, extensions: str, signer: list[str]) -> None:
        described = pair.certificate.with_suffix(".ext")
        described.write_text(extensions)
        _openssl(
            "x509", "-new", *signer, "-days", "2", "-subj", subject,
            "-extfile", str(described), "-out", str(pair.certificate),
        )  # fmt: skip


def new_key(path: Path) -> None:
    """Write a fresh private key."""
    _openssl("ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", str(path))
    path.chmod(0o600)


def _escaped(text: str) -> str:
    return text.replace("/", "\\/")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
