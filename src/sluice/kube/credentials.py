"""Who we are to the API server at this moment.

Tokens, certificates and the server's CA change while we run: files are rotated, plugins' answers
expire. A `Grant` is what to present now. It is kept until it may have changed or a server refuses
it; whoever is refused says which grant that was, so that many refused at once fetch one new one.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta, Struct

from sluice.kube.clock import SYSTEM_CLOCK, Clock
from sluice.kube.config import Blob, ClientConfig, ConfigError, ExecPlugin

FILES_LAST = timedelta(minutes=1)
"""How long the content of files is trusted: tokens and CAs are rotated long before they expire."""

PLUGIN_TIMEOUT = 60
"""Seconds for a plugin that has nobody to talk to."""

_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Grant:
    """What to present: the value of the Authorization header, and how to speak TLS."""

    authorization: str | None = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)


class Credentials:
    """The grants of one configuration; may be shared by threads.

    `terminal` says that somebody is there to answer a plugin's questions.
    """

    def __init__(self, config: ClientConfig, *, clock: Clock = SYSTEM_CLOCK, terminal: bool = False) -> None:
        self._config = config
        self._clock = clock
        self._terminal = terminal
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        self._until: datetime | None = None
        self._material: object = None
        self._issued: _Issued | None = None

    def current(self) -> Grant | None:
        """The grant in force; None when it has to be fetched. Never blocks."""
        grant, until = self._grant, self._until
        return grant if until is None or self._clock.now() < until else None

    def fetch(self, refused: Grant | None = None) -> Grant:
        """The grant in force, fetched where needed; blocks on files and plugins.

        Where it is the one that was refused, everything is read again. If that changes nothing,
        the same grant is returned. Raises `ConfigError`.
        """
        with self._lock:
            grant = self.current()
            if grant is not None and grant is not refused:
                return grant
            try:
                fetched, self._until = self._read(again=refused is not None)
            except ConfigError:
                if self._grant is None or refused is not None:
                    raise
                # A file may be missing for a moment while it is rotated; the server has the last word.
                self._until = self._clock.now() + FILES_LAST
                return self._grant
            if fetched != self._grant:
                self._grant = fetched
            return self._grant

    def _read(self, *, again: bool) -> tuple[Grant, datetime | None]:
        config, now = self._config, self._clock.now()
        certificate, key, authorization, issued = config.certificate, config.key, _authorization(config), None
        if config.exec and not authorization:
            if again or self._issued is None or self._issued.is_over(now):
                self._issued = run_plugin(config.exec, terminal=self._terminal)
            issued, where = self._issued, config.exec.where
            if issued.token:
                authorization = _bearer(issued.token, where)
            if issued.certificate:
                certificate = Blob(where, data=issued.certificate.encode())
                key = Blob(where, data=issued.key.encode())
        blobs = (config.ca, certificate, key, config.token)
        until = now + FILES_LAST if any(blob and blob.path for blob in blobs) else None
        if issued and issued.expires:
            until = min(until or issued.expires, issued.expires)
        return Grant(authorization, self._tls(certificate, key)), until

    def _tls(self, certificate: Blob | None, key: Blob | None) -> ssl.SSLContext | None:
        """A context for what the files hold now: the last one, if they hold the same."""
        config = self._config
        if not config.server.startswith("https:"):
            return None
        material = [blob and blob.read() for blob in (config.ca, certificate, key)]
        if self._grant is None or self._material != material:
            context = make_context(config, certificate, key)
            self._material = material
            return context
        return self._grant.tls


def _authorization(config: ClientConfig) -> str | None:
    """The value of the header, as far as the configuration alone decides it."""
    if config.token:
        return _bearer(config.token.read().decode("ascii", "replace").strip(), config.token.where)
    if config.basic:
        return "Basic " + base64.b64encode(":".join(config.basic).encode()).decode()
    return None


def _bearer(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ConfigError(f"{where}: not a token")
    return f"Bearer {token}"


def make_context(config: ClientConfig, certificate: Blob | None, key: Blob | None) -> ssl.SSLContext:
    """How to speak TLS with this server; raises `ConfigError` for what is no certificate."""
    # PEM files may hold comments in any script; the ssl module accepts ASCII only.
    authorities = config.ca.read().decode("ascii", "ignore") if config.ca else None
    try:
        context = ssl.create_default_context(cadata=authorities)
    except ssl.SSLError:
        where = config.ca.where if config.ca else "TLS"
        raise ConfigError(f"{where}: not a list of certificates in PEM format") from None
    # Strict mode (the default since Python 3.13) refuses what many cluster CAs look like.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if certificate and key:
        _load_certificate(context, certificate, key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Blob, key: Blob) -> None:
    def refuse() -> NoReturn:
        raise ConfigError(f"{key.where}: encrypted with a passphrase (store it without one)")

    # The ssl module takes files only. This one is ours alone (0600) and lives for one call.
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.read() + b"\n" + key.read())
        file.flush()
        try:
            context.load_cert_chain(file.name, password=refuse)
        except (ssl.SSLError, ValueError):
            raise ConfigError(f"{certificate.where}: not a certificate in PEM format with its key") from None


# Exec plugins (client.authentication.k8s.io). The structs are what is read of the answer.


class _Status(Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: Annotated[datetime, Meta(tz=True)] | None = None


class _ExecCredential(Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    status: _Status | None = None


@dataclass(frozen=True)
class _Issued:
    token: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)
    expires: datetime | None

    def is_over(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


def run_plugin(plugin: ExecPlugin, *, terminal: bool) -> _Issued:
    """Ask a plugin; raises `ConfigError`, which never repeats what the plugin printed.

    Its error output goes to the terminal, if there is one, and nowhere else: it may hold secrets.
    """
    name = Path(plugin.command).name
    interactive = terminal and plugin.mode != "Never"
    if plugin.mode == "Always" and not terminal:
        raise ConfigError(f"{plugin.where}: '{name}' needs a terminal")
    spec: dict[str, Any] = {"interactive": interactive}
    if plugin.cluster is not None:
        spec["cluster"] = plugin.cluster
    request = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    command = shutil.which(plugin.command, path=plugin.env.get("PATH", os.defpath))
    if command is None:
        hint = " ".join(plugin.hint.split())
        raise ConfigError(f"{plugin.where}: there is no program '{name}'{f' ({hint})' if hint else ''}")
    try:
        done = subprocess.run(  # noqa: S603  no shell; the user's own kubeconfig names the program
            [command, *plugin.args],
            env={**plugin.env, "KUBERNETES_EXEC_INFO": msgspec.json.encode(request).decode()},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if interactive else subprocess.DEVNULL,
            timeout=None if interactive else PLUGIN_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{plugin.where}: '{name}' did not answer within {PLUGIN_TIMEOUT} s") from None
    except OSError as error:
        raise ConfigError(f"{plugin.where}: cannot run '{name}': {(error.strerror or '').lower()}") from None
    if done.returncode:
        raise ConfigError(f"{plugin.where}: '{name}' failed with exit code {done.returncode} (run it to see why)")
    return _parse_answer(done.stdout, plugin, name)


def _parse_answer(answer: bytes, plugin: ExecPlugin, name: str) -> _Issued:
    def wrong(text: str) -> ConfigError:
        return ConfigError(f"{plugin.where}: '{name}' answered {text}")

    try:
        found = msgspec.json.decode(answer, type=_ExecCredential)
    except (msgspec.DecodeError, RecursionError):
        raise wrong("something that is no ExecCredential") from None
    if found.kind != "ExecCredential":
        raise wrong("something that is no ExecCredential")
    if found.api_version != plugin.api_version:
        raise wrong(f"in another version than it was asked in ({plugin.api_version})")
    status = found.status or _Status()
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise wrong("half of a certificate and its key")
    if not status.token and not status.client_certificate_data:
        raise wrong("with neither a token nor a certificate")
    return _Issued(
        status.token.strip(), status.client_certificate_data, status.client_key_data, status.expiration_timestamp
    )
