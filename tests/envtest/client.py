"""A Kubernetes client of a few lines, for tests that need the server's own word."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Refused(Exception):
    """An answer of 400 or more; `status` is the number, `body` what the server said."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body.get('message') if isinstance(body, dict) else body}")
        self.status = status
        self.body = body


class Client:
    """Speaks to one server as one user; a connection per call, so any thread may use it."""

    def __init__(self, server: str, authority: Path, token: str) -> None:
        self._address = urlsplit(server).netloc
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._token = token

    def call(self, method: str, path: str, body: Any = None, *, content_type: str = JSON, accept: str = JSON) -> Any:
        """Send a request and return the decoded answer, text where it is not JSON."""
        connection = http.client.HTTPSConnection(self._address, context=self._tls, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type, "Accept": accept}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == JSON
        answer = json.loads(text) if is_json else text.decode()
        if response.status >= 400:
            raise Refused(response.status, answer)
        return answer

    def create(self, path: str, body: Object) -> Object:
        answer: Object = self.call("POST", path, body)
        return answer

    def get(self, path: str) -> Object:
        answer: Object = self.call("GET", path)
        return answer

    def merge(self, path: str, patch: Object) -> Object:
        answer: Object = self.call("PATCH", path, patch, content_type=MERGE_PATCH)
        return answer

    def delete(self, path: str) -> None:
        self.call("DELETE", path)
