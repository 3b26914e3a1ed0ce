"""Find out which API server to speak to, and as whom.

`KUBECONFIG` comes first (of several files the first that sets something wins), then the service
account of the pod we run in, then ``~/.kube/config``. A `ClientConfig` that exists is complete and
its paths are absolute; what changes while we run, the content of files and the answers of plugins,
is read by `sluice.kube.credentials`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from sluice.core.errors import ApiError, BuildError
from sluice.core.yaml import load
from sluice.kube.proxy import proxy_for

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class ConfigError(ApiError):
    """What is needed to speak to an API server is missing or wrong."""


@dataclass(frozen=True)
class Blob:
    """Bytes given once, or in a file that may change; `where` names the field for messages."""

    where: str
    path: Path | None = None
    data: bytes = field(default=b"", repr=False)

    def read(self) -> bytes:
        return self.data if self.path is None else _read(self.path, self.where)


@dataclass(frozen=True)
class ExecPlugin:
    """A program that answers with a token or a client certificate."""

    where: str
    command: str
    """A name to look for in `PATH`, or an absolute path."""
    args: Sequence[str] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    """The whole environment of the program."""
    api_version: str
    mode: Literal["Never", "IfAvailable", "Always"]
    hint: str = ""
    cluster: Mapping[str, Any] | None = field(default=None, repr=False)
    """What the program is told of the cluster, where the kubeconfig asks for that."""


@dataclass(frozen=True)
class Impersonation:
    """As whom to act, where that is not who we are."""

    user: str = ""
    groups: Sequence[str] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


NOBODY_ELSE = Impersonation()


@dataclass(frozen=True)
class ClientConfig:
    """One API server and who we are to it. Its representation holds no secrets."""

    server: str
    """An http or https URL without a slash at the end; it may have a path."""
    namespace: str = "default"
    ca: Blob | None = None
    """Who signs the server's certificate; None for those that the system trusts."""
    insecure: bool = False
    server_name: str = ""
    """The name in the server's certificate, where it is not the host of `server`."""
    proxy: str = field(default="", repr=False)
    certificate: Blob | None = None
    key: Blob | None = None
    token: Blob | None = None
    basic: tuple[str, str] | None = field(default=None, repr=False)
    exec: ExecPlugin | None = None
    acting_as: Impersonation = NOBODY_ELSE


def load_config(
    environ: Mapping[str, str],
    *,
    path: Path | None = None,
    context: str = "",
    namespace: str = "",
    acting_as: Impersonation = NOBODY_ELSE,
    service_account: Path = SERVICE_ACCOUNT,
) -> ClientConfig:
    """The cluster to use; raises `ConfigError`, one line naming the file and the field.

    `path` is a kubeconfig to use instead of any other; naming a `context` asks for a kubeconfig
    too. `namespace` and `acting_as` replace what is found.
    """
    config = None
    if not (path or context or environ.get("KUBECONFIG")):
        config = _in_cluster(environ, service_account)
    if config is None:
        config = _from_kubeconfig(environ, path, context)
    config = replace(
        config,
        namespace=namespace or config.namespace,
        acting_as=config.acting_as if acting_as == NOBODY_ELSE else acting_as,
        proxy=config.proxy or proxy_for(environ, config.server),
    )
    if config.acting_as != NOBODY_ELSE and not config.acting_as.user:
        raise ConfigError("impersonation: groups without a user to act as")
    return config


def context_names(environ: Mapping[str, str], path: Path | None = None) -> list[str]:
    """The contexts that there are to choose from; raises `ConfigError`."""
    files = (_parse(file) for file in _kubeconfig_paths(environ, path))
    return list(dict.fromkeys(context.name for file in files for context in file.contexts))


def service_account_namespace(service_account: Path = SERVICE_ACCOUNT) -> str:
    """The namespace of the pod we run in; raises `ConfigError` outside of one."""
    return _read(service_account / "namespace", "service account").decode(errors="replace").strip()


def _in_cluster(environ: Mapping[str, str], account: Path) -> ClientConfig | None:
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not (host and port and (account / "token").exists()):
        return None
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=service_account_namespace(account),
        ca=Blob("service account", account / "ca.crt"),
        token=Blob("service account", account / "token"),
    )


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"{where}: cannot read '{path}': {reason}") from error


# Kubeconfig. The structs below are what is read of the format; empty means not set.


class _Extension(Struct, frozen=True):
    name: str
    extension: Any = None


class _Cluster(Struct, frozen=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    extensions: list[_Extension] = []


class _Variable(Struct, frozen=True):
    name: str
    value: str = ""


class _Exec(Struct, frozen=True, rename="camel"):
    command: str
    api_version: str = ""
    args: list[str] = []
    env: list[_Variable] = []
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: Literal["", "Never", "IfAvailable", "Always"] = ""


class _User(Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    exec: _Exec | None = None
    auth_provider: Any = None
    as_user: str = msgspec.field(default="", name="as")
    as_groups: tuple[str, ...] = ()
    as_uid: str = ""
    as_user_extra: dict[str, tuple[str, ...]] = {}


class _Context(Struct, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(Struct, frozen=True):
    name: str
    cluster: _Cluster = _Cluster()


class _NamedUser(Struct, frozen=True):
    name: str
    user: _User = _User()


class _NamedContext(Struct, frozen=True):
    name: str
    context: _Context = _Context()


class _File(Struct, frozen=True):
    clusters: list[_NamedCluster] = []
    users: list[_NamedUser] = []
    contexts: list[_NamedContext] = []
    current_context: str = msgspec.field(default="", name="current-context")


class _Entry(Struct, frozen=True):
    """Something that a kubeconfig sets, and where: for messages and relative paths."""

    path: Path
    where: str

    def error(self, field_name: str, text: str) -> ConfigError:
        return ConfigError(f"kubeconfig '{self.path}': {self.where}.{field_name}: {text}")

    def inline(self, field_name: str, data: str) -> Blob | None:
        return Blob(f"kubeconfig '{self.path}': {self.where}.{field_name}", data=data.encode()) if data else None

    def blob(self, field_name: str, data: str, path: str) -> Blob | None:
        """Inline data if there is any, else a file, else None."""
        where = f"kubeconfig '{self.path}': {self.where}.{field_name}"
        if not data:
            return Blob(where, self.path.parent / path) if path else None
        try:
            return Blob(where, data=base64.b64decode("".join(data.split()), validate=True))
        except (binascii.Error, ValueError):
            raise self.error(f"{field_name}-data", "not valid base64") from None


def _from_kubeconfig(environ: Mapping[str, str], path: Path | None, wanted: str) -> ClientConfig:
    files = [(path, _parse(path)) for path in _kubeconfig_paths(environ, path)]
    clusters: dict[str, tuple[_Entry, _Cluster]] = {}
    users: dict[str, tuple[_Entry, _User]] = {}
    contexts: dict[str, tuple[_Entry, _Context]] = {}
    current = ""
    for path, file in files:
        current = current or file.current_context
        for cluster in file.clusters:
            clusters.setdefault(cluster.name, (_Entry(path, f"clusters[{cluster.name}].cluster"), cluster.cluster))
        for user in file.users:
            users.setdefault(user.name, (_Entry(path, f"users[{user.name}].user"), user.user))
        for context in file.contexts:
            contexts.setdefault(context.name, (_Entry(path, f"contexts[{context.name}].context"), context.context))

    name = wanted or current
    known = f"(contexts: {', '.join(contexts) or 'none'})"
    names = ", ".join(f"'{path}'" for path, _ in files)
    if not name:
        raise ConfigError(f"kubeconfig {names}: current-context: not set {known}")
    if name not in contexts:
        raise ConfigError(f"kubeconfig {names}: there is no context '{name}' {known}")
    place, chosen = contexts[name]
    if chosen.cluster not in clusters:
        raise place.error("cluster", f"there is no cluster '{chosen.cluster}'")
    if chosen.user and chosen.user not in users:
        raise place.error("user", f"there is no user '{chosen.user}'")
    config = _with_cluster(*clusters[chosen.cluster])
    if chosen.user:
        config = _with_user(config, environ, clusters[chosen.cluster][1], *users[chosen.user])
    return replace(config, namespace=chosen.namespace or "default")


def _kubeconfig_paths(environ: Mapping[str, str], path: Path | None) -> list[Path]:
    """The files to merge. Of several some may be missing, as everywhere in Kubernetes."""
    if path:
        return [path.absolute()]
    if listed := environ.get("KUBECONFIG"):
        paths = [Path(name).absolute() for name in listed.split(os.pathsep) if name]
        if found := [path for path in paths if path.exists()]:
            return found
        raise ConfigError(f"KUBECONFIG: none of its files exists: '{listed}'")
    default = Path(environ.get("HOME") or "/", ".kube", "config")
    if default.exists():
        return [default.absolute()]
    raise ConfigError(f"no cluster is configured (KUBECONFIG is not set, '{default}' does not exist)")


def _parse(path: Path) -> _File:
    where = f"kubeconfig '{path}'"
    data = _read(path, "kubeconfig")
    try:
        documents = load(data)
        if len(documents) > 1:
            raise ConfigError(f"{where}: more than one document")
        return msgspec.convert(_without_nulls(documents[0]) or {} if documents else {}, _File)
    except BuildError as error:
        raise ConfigError(f"{where}: {error}") from error
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.users[0].user.token`": types and a path, no values.
        text, _, field_path = str(error).partition(" - at ")
        text = re.sub(r"Invalid enum value .*", "not one of the values that are allowed", text).replace("`", "")
        place = field_path.strip("`").removeprefix("$").removeprefix(".")
        raise ConfigError(f"{where}: {place or 'the file'}: {text[0].lower()}{text[1:]}") from None


def _without_nulls(value: Any) -> Any:
    """A field that is null is a field that is not set."""
    match value:
        case dict():
            return {key: _without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value


def _with_cluster(place: _Entry, cluster: _Cluster) -> ClientConfig:
    _check_url(place, "server", cluster.server, schemes=("http", "https"))
    if cluster.proxy_url:
        _check_url(place, "proxy-url", cluster.proxy_url, schemes=("http", "https"))
    ca = place.blob("certificate-authority", cluster.certificate_authority_data, cluster.certificate_authority)
    if ca and cluster.insecure_skip_tls_verify:
        raise place.error("insecure-skip-tls-verify", "cannot be combined with a certificate authority")
    return ClientConfig(
        server=cluster.server.rstrip("/"),
        ca=ca,
        insecure=cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        proxy=cluster.proxy_url,
    )


def _check_url(place: _Entry, field_name: str, url: str, *, schemes: Sequence[str]) -> None:
    # A URL may hold a password, so the message repeats only its scheme.
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise place.error(field_name, "not a valid URL") from None
    if parts.scheme not in schemes:
        raise place.error(field_name, f"'{parts.scheme}' is not a scheme to use here ({' or '.join(schemes)})")
    if not good:
        raise place.error(field_name, "not a valid URL")
    if field_name == "server" and ("@" in parts.netloc or parts.query or parts.fragment):
        raise place.error(field_name, "must be a plain URL, without user, query or fragment")


def _with_user(
    config: ClientConfig, environ: Mapping[str, str], cluster: _Cluster, place: _Entry, user: _User
) -> ClientConfig:
    certificate = place.blob("client-certificate", user.client_certificate_data, user.client_certificate)
    key = place.blob("client-key", user.client_key_data, user.client_key)
    if (certificate is None) != (key is None):
        missing = "client-key" if key is None else "client-certificate"
        raise place.error(missing, "missing (a client certificate and its key come together)")
    if (user.token or user.token_file) and (user.username or user.password):
        raise place.error("token", "cannot be combined with username and password")
    if user.auth_provider is not None:
        raise place.error("auth-provider", "not supported (use an exec plugin)")
    return replace(
        config,
        certificate=certificate,
        key=key,
        token=place.blob("tokenFile", "", user.token_file) or place.inline("token", user.token),
        basic=(user.username, user.password) if user.username or user.password else None,
        exec=_plugin(environ, config, cluster, place, user.exec) if user.exec else None,
        acting_as=Impersonation(user.as_user, user.as_groups, user.as_uid, user.as_user_extra),
    )


def _plugin(
    environ: Mapping[str, str], config: ClientConfig, cluster: _Cluster, place: _Entry, plugin: _Exec
) -> ExecPlugin:
    if plugin.api_version not in EXEC_VERSIONS:
        known = " or ".join(EXEC_VERSIONS)
        raise place.error("exec.apiVersion", f"'{plugin.api_version}' is not supported ({known})")
    if not plugin.command:
        raise place.error("exec.command", "missing")
    if not plugin.interactive_mode and plugin.api_version == EXEC_VERSIONS[0]:
        raise place.error("exec.interactiveMode", "missing (Never, IfAvailable or Always)")
    # A name is looked for in PATH; anything with a slash is a path, relative to the kubeconfig.
    command = str(place.path.parent / plugin.command) if "/" in plugin.command else plugin.command
    return ExecPlugin(
        where=f"kubeconfig '{place.path}': {place.where}.exec",
        command=command,
        args=plugin.args,
        env={**environ, **{variable.name: variable.value for variable in plugin.env}},
        api_version=plugin.api_version,
        mode=plugin.interactive_mode or "IfAvailable",
        hint=plugin.install_hint,
        cluster=_told(config, cluster) if plugin.provide_cluster_info else None,
    )


def _told(config: ClientConfig, cluster: _Cluster) -> Mapping[str, Any]:
    """The cluster as a plugin is told of it: the CA always inline, plus its own settings."""
    told: dict[str, Any] = {"server": cluster.server}
    if cluster.tls_server_name:
        told["tls-server-name"] = cluster.tls_server_name
    if cluster.insecure_skip_tls_verify:
        told["insecure-skip-tls-verify"] = True
    if config.ca:
        told["certificate-authority-data"] = base64.b64encode(config.ca.read()).decode()
    if cluster.proxy_url:
        told["proxy-url"] = cluster.proxy_url
    for extension in cluster.extensions:
        if extension.name == "client.authentication.k8s.io/exec":
            told["config"] = extension.extension
    return told
