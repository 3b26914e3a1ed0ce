"""What an API server answers when it does not do what it was asked, and what it is not to answer."""

from __future__ import annotations

import os

import msgspec
from msgspec import Struct

from sluice.core.errors import ApiError

MAX_MESSAGE = 1000


class Refused(ApiError):
    """The API server's answer is an error: `status` as HTTP, `reason` as Kubernetes has it."""

    def __init__(
        self,
        text: str,
        status: int,
        reason: str = "",
        *,
        retry_after: float | None = None,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(text, status)
        self.reason = reason
        self.retry_after = retry_after
        self.fields = fields
        """The fields that were found invalid."""


class Unreachable(ApiError):
    """No answer: not connected, cut off, or too late. Whether a write took place is unknown."""


class _Cause(Struct, frozen=True):
    field: str = ""


class _Details(Struct, frozen=True, rename="camel"):
    retry_after_seconds: float | None = None
    causes: tuple[_Cause, ...] | None = None


class Status(Struct, frozen=True):
    """What Kubernetes answers where something failed."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    def error(self, code: int, otherwise: str, retry_after: float | None = None) -> Refused:
        details = self.details or _Details()
        text = " ".join(self.message.split())[:MAX_MESSAGE]
        fields = tuple(cause.field for cause in details.causes or ())
        told = details.retry_after_seconds or retry_after
        return Refused(text or otherwise, self.code or code, self.reason, retry_after=told, fields=fields)


STATUS = msgspec.json.Decoder(Status)


def describe(error: Exception) -> str:
    """What went wrong with a connection, in the system's words, without addresses."""
    # Here, because most who import this module catch errors only, and aiohttp takes its time.
    import aiohttp

    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "")
            return f"its certificate is not trusted ({reason or 'unknown reason'})"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ClientConnectorDNSError():
            return "cannot resolve its name"
        case aiohttp.ClientSSLError():
            return "cannot agree on TLS"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "connection cut off"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case _:
            return f"connection failed ({type(error).__name__})"
