"""Dagster's webserver, asked in GraphQL over HTTP.

Not by `DagsterGraphQLClient`, which knows neither sensors and schedules nor partitions, and would bring all of Dagster
into each command.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mail_orchestration.kernel.errors import MailOrchestrationError, Unavailable
from mail_orchestration.kernel.settings import WEBSERVER_VARIABLE, Settings

LOCATION_NAME = "mail_orchestration"
"""Of our definitions in Dagster's workspace, as workspace.yaml says."""
REPOSITORY_NAME = "__repository__"
"""What Dagster calls the one `Definitions` of a location."""

ANSWERS_WITHIN_S = 60.0
"""To run a sensor now is to look for work: the answer may take as long as that does."""


class DagsterUnavailable(Unavailable):
    """Dagster's webserver does not answer."""


class DagsterRefused(MailOrchestrationError):
    """Dagster would not do it."""


class DagsterServer:
    """The webserver at an address. Proxies of the environment are not used: it is a neighbour."""

    def __init__(self, url: str) -> None:
        """`url` may hold `user:password@`, for a proxy before the webserver that asks for them."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit(parts._replace(netloc=host)).rstrip("/")
        """Without user and password."""
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if parts.username is not None:
            secret = f"{parts.username}:{parts.password or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret).decode('ascii')}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def of(cls, settings: Settings) -> DagsterServer:
        """The one that the environment or the settings name."""
        return cls(settings.dagster.webserver_url)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that answers a query or mutation. Raises DagsterUnavailable or DagsterRefused."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", data=body, headers=self._headers)  # noqa: S310
        try:
            with self._opener.open(request, timeout=ANSWERS_WITHIN_S) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise DagsterRefused(
                    f"{self.url} asks who we are ({error.code}): name user and password in {WEBSERVER_VARIABLE}, as in "
                    "https://user:password@host"
                ) from None
            answer = error.read()
        except http.client.HTTPException:
            answer = b""
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise DagsterUnavailable(
                f"Dagster's webserver does not answer at {self.url}: {reason}. Start it, or say where it is: "
                f"dagster.url in the settings, or {WEBSERVER_VARIABLE}"
            ) from None
        return self._data(answer)

    def _data(self, answer: bytes) -> dict[str, Any]:
        try:
            document = json.loads(answer)
            data, errors = document.get("data"), document.get("errors")
        except (ValueError, AttributeError):
            data = errors = None
        if errors:
            raise DagsterRefused(f"Dagster at {self.url}: {errors[0].get('message')}")
        if not isinstance(data, dict):
            raise DagsterUnavailable(f"what answers at {self.url} is not Dagster's webserver")
        return data


def expect(result: dict[str, Any], *kinds: str) -> dict[str, Any]:
    """A member of a GraphQL union that is of one of these types. Raises DagsterRefused with what it says instead.

    The query must ask for `__typename`, and for the `message` of errors.
    """
    kind = result["__typename"]
    if kind in kinds:
        return result
    if kind == "UnauthorizedError":
        raise DagsterRefused("this webserver of Dagster is read-only: ask the one that operators use")
    if kind == "RepositoryNotFoundError":
        raise DagsterRefused(
            f"Dagster has no location {LOCATION_NAME}, or could not load it: its page Deployment tells why"
        )
    said = result.get("message") or "; ".join(each["message"] for each in result.get("errors", ()))
    # A message of Python holds its traceback after the first line.
    raise DagsterRefused(f"Dagster: {said.strip().splitlines()[0] if said else kind}")
