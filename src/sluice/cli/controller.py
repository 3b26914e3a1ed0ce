"""``sluice controller``: source-watcher's flags unchanged, and ours.

Some of the peer's flags have no effect there, or none any more; manifests pass them, so they are
taken and ignored here too.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from sluice.cli.durations import DURATION
from sluice.core.dialect import DIALECTS, DOCUMENTED, UPSTREAM, Dialect, DialectName
from sluice.core.errors import SluiceError
from sluice.core.tar import HASHES
from sluice.kube.config import ConfigError

GATES = ("DirectSourceFetch", "UpstreamCompat", "OriginRevisionEveryCommit")


class Gates(click.ParamType[Any]):
    """Feature gates, such as A=true,B=false."""

    name = "gates"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, bool]:
        if isinstance(value, dict):
            return value
        gates: dict[str, bool] = {}
        for part in filter(None, value.split(",")):
            name, _, switch = part.strip().partition("=")
            if name not in GATES:
                raise ConfigError(f"--feature-gates: unknown gate '{name}' (known: {', '.join(GATES)})")
            if switch.lower() not in ("true", "false", "1", "0", "t", "f"):
                raise ConfigError(f"--feature-gates: '{switch}' of '{name}' is not true or false")
            gates[name] = switch.lower() in ("true", "1", "t")
        return gates


FEATURE_GATES = Gates()


def _switch(name: str, *, default: bool, help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A boolean in Go's spelling: alone, or with ``=true`` or ``=false``."""
    return click.option(
        name, type=bool, is_flag=False, flag_value="true", default=default, show_default=True, help=help_text
    )


def _ignored(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(name, hidden=True, expose_value=False)


def _from_environment(name: str, default: str) -> str:
    return os.environ.get(name) or default


@click.command("controller")
@click.option(
    "--concurrent", type=click.IntRange(1), default=10, show_default=True, help="Generators worked on at a time."
)
@click.option("--metrics-addr", default=":8080", show_default=True, help="Where metrics are served; 0 for nowhere.")
@click.option("--health-addr", default=":9440", show_default=True, help="Where probes are answered; 0 for nowhere.")
@click.option("--events-addr", default="", help="URL of the notification receiver.")
@click.option(
    "--http-retry", type=click.IntRange(0), default=9, show_default=True, help="Retries of a source in a row."
)
@click.option(
    "--reconciliation-timeout", type=DURATION, default="10m0s", show_default=True, help="Longest reconciliation."
)
@click.option(
    "--requeue-dependency", type=DURATION, default="5s", show_default=True, help="Wait for a source that is missing."
)
@click.option(
    "--storage-path",
    default=lambda: _from_environment("STORAGE_PATH", "/data"),
    help="Directory of the artifacts. [default: $STORAGE_PATH or /data]",
)
@click.option(
    "--storage-addr",
    default=lambda: _from_environment("STORAGE_ADDRESS", ":9090"),
    help="Where artifacts are served. [default: $STORAGE_ADDRESS or :9090]",
)
@click.option(
    "--storage-adv-addr",
    default=lambda: _from_environment("STORAGE_ADV_ADDR", ""),
    help="Host and port in the URLs of artifacts. [default: $STORAGE_ADV_ADDR]",
)
@click.option(
    "--artifact-retention-ttl",
    type=DURATION,
    default="1m0s",
    show_default=True,
    help="How long a superseded file stays.",
)
@click.option(
    "--artifact-retention-records",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Files of an artifact that stay longer.",
)
@click.option("--artifact-digest-algo", default="sha256", show_default=True, help=f"One of {', '.join(HASHES)}.")
@_switch("--no-cross-namespace-refs", default=False, help_text="Refuse sources of other namespaces.")
@_switch("--watch-all-namespaces", default=True, help_text="Watch everything, not only $RUNTIME_NAMESPACE.")
@click.option("--watch-label-selector", default="", help="Watch only generators with these labels (sharding).")
@_ignored("--watch-configs-label-selector")
@click.option("--feature-gates", type=FEATURE_GATES, default="", help=f"Switches, as NAME=true: {', '.join(GATES)}.")
@click.option(
    "--interval-jitter-percentage", type=int, default=5, show_default=True, help="Variation of the hourly look."
)
@click.option(
    "--min-retry-delay", type=DURATION, default="750ms", show_default=True, help="First delay after an error."
)
@click.option(
    "--max-retry-delay", type=DURATION, default="15m0s", show_default=True, help="Longest delay after an error."
)
@_switch("--enable-leader-election", default=False, help_text="Work only while holding the Lease.")
@_switch("--leader-election-release-on-cancel", default=True, help_text="Give the Lease up when ending.")
@click.option(
    "--leader-election-lease-duration", type=DURATION, default="35s", show_default=True, help="How long others wait."
)
@click.option(
    "--leader-election-renew-deadline",
    type=DURATION,
    default="30s",
    show_default=True,
    help="How long the leader tries.",
)
@_ignored("--leader-election-retry-period")
@click.option("--log-level", default="info", show_default=True, help="trace, debug, info or error.")
@click.option("--log-encoding", type=click.Choice(["json", "console"]), default="json", show_default=True)
@_ignored("--kube-api-qps")
@_ignored("--kube-api-burst")
@click.option(
    "--dialect",
    type=click.Choice([name.value for name in DialectName]),
    help="How copy operations are read. [default: documented]",
)
@_switch("--atomic", default=False, help_text="Publish nothing of a generator unless all of it builds.")
@click.option(
    "--verify-rate",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="MB of stored artifacts to read again each second, to find damage; 0 for none.",
)
@click.option("--watch-inactivity", type=DURATION, default="1m15s", hidden=True)
@_switch("--no-loopback-sources", default=False, help_text="Refuse sources on this machine's loopback.")
def command(**flags: Any) -> int:
    """Reconcile ArtifactGenerators in a cluster, with source-watcher's flags.

    The cluster is that of $KUBECONFIG, else the one this runs in, else that of ~/.kube/config.
    """
    from sluice.logs import Encoding, configure, logger
    from sluice.service import run_controller

    configure(flags["log_level"], Encoding(flags["log_encoding"]))
    try:
        code = asyncio.run(run_controller(_options(flags), os.environ))
    except SluiceError as error:
        logger().error(str(error))
        code = 1
    sys.stdout.flush()
    # Threads that still build something would hold the process up; it is worth nothing any more.
    os._exit(code)


def _options(flags: dict[str, Any]) -> Any:
    """The options of the controller; raises `SluiceError` for what the peer refuses with exit code 1."""
    from sluice.control.ports import Settings
    from sluice.kube.leader import Durations
    from sluice.kube.selector import check_selector
    from sluice.service import ControllerOptions, base_url

    if flags["artifact_digest_algo"] not in HASHES:
        known = ", ".join(HASHES)
        raise ConfigError(f"--artifact-digest-algo: '{flags['artifact_digest_algo']}' is not known (known: {known})")
    jitter = flags["interval_jitter_percentage"]
    if not 0 <= jitter < 100:
        raise ConfigError(f"--interval-jitter-percentage: {jitter} is out of range (0 to 99)")
    check_selector(flags["watch_label_selector"])
    gates = flags["feature_gates"]
    settings = Settings(
        dialect=_dialect(flags["dialect"], upstream=gates.get("UpstreamCompat", False)),
        base_url=base_url(flags["storage_addr"], flags["storage_adv_addr"], os.environ),
        atomic=flags["atomic"],
        lockdown=flags["no_cross_namespace_refs"],
        direct_fetch=gates.get("DirectSourceFetch", False),
        origin_every_commit=gates.get("OriginRevisionEveryCommit", False),
        jitter=jitter / 100,
        requeue_dependency=flags["requeue_dependency"],
        min_retry=flags["min_retry_delay"],
        max_retry=flags["max_retry_delay"],
        timeout=flags["reconciliation_timeout"],
        retention_ttl=timedelta(seconds=flags["artifact_retention_ttl"]),
        retention_records=flags["artifact_retention_records"],
    )
    return ControllerOptions(
        settings=settings,
        concurrent=flags["concurrent"],
        metrics_addr=flags["metrics_addr"],
        health_addr=flags["health_addr"],
        events_addr=flags["events_addr"],
        http_retry=flags["http_retry"],
        storage_path=Path(flags["storage_path"]),
        storage_addr=flags["storage_addr"],
        digest_algorithm=flags["artifact_digest_algo"],
        loopback_sources=not flags["no_loopback_sources"],
        namespace="" if flags["watch_all_namespaces"] else os.environ.get("RUNTIME_NAMESPACE", ""),
        label_selector=flags["watch_label_selector"],
        elect=flags["enable_leader_election"],
        release_on_cancel=flags["leader_election_release_on_cancel"],
        verify_rate=flags["verify_rate"],
        watch_inactivity=flags["watch_inactivity"],
        durations=Durations(flags["leader_election_lease_duration"], flags["leader_election_renew_deadline"]),
    )


def _dialect(name: str | None, *, upstream: bool) -> Dialect:
    if name is not None:
        return DIALECTS[DialectName(name)]
    return UPSTREAM if upstream else DOCUMENTED
