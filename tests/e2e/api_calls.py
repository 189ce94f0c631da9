"""Calls of the HTTP API of an embedded stack: signed at the producers' door, by token at the
people's."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from agent_credits_local.session import LOCAL_REGION
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget
from agent_credits_local.token_issuer import sign_token
from tests.api_world import Got

# A copy of the function starts in seconds, where several tests share two processors.
CALL_SECONDS_MAX = 90.0


@dataclass(frozen=True)
class ApiCalls:
    """Both doors of a stack. `session` signs; `folder` has the key of the tokens."""

    target: LocalTarget
    folder: StateFolder
    session: boto3.Session | None = None

    def by_producer(self, method: str, path: str, body: object = None, **more: Any) -> Got:
        return self._call(self._url("producers"), method, path, body, is_signed=True, **more)

    def by_person(
        self, token: str | None, method: str, path: str, body: object = None, **more: Any
    ) -> Got:
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return self._call(self._url("people"), method, path, body, headers=headers, **more)

    def unsigned(self, method: str, path: str) -> Got:
        return self._call(self._url("producers"), method, path, None)

    def token(self, sub: str, *teams: str, **claims: Any) -> str:
        return sign_token(self.folder.issuer_key, {"sub": sub, "teams": list(teams), **claims})

    def _url(self, door: str) -> str:
        outputs = self.target.outputs
        url = outputs.producers_api_url if door == "producers" else outputs.people_api_url
        assert url, "the embedded stack has the API"
        return url

    def _call(
        self,
        base: str,
        method: str,
        path: str,
        body: object,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        is_signed: bool = False,
    ) -> Got:
        url = base + path + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        sent = {**({"content-type": content_type} if data else {}), **(headers or {})}
        if is_signed:
            sent = self._signed(method, url, data, sent)
        address = urlsplit(url)
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=CALL_SECONDS_MAX
        )
        try:
            target = address.path + (f"?{address.query}" if address.query else "")
            connection.request(method, target, data, sent)
            answer = connection.getresponse()
            text = answer.read().decode()
            return Got(answer.status, dict(answer.getheaders()), text)
        finally:
            connection.close()

    def _signed(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]
    ) -> dict[str, str]:
        session = self.session or self.target.session
        request = AWSRequest(method=method, url=url, data=data, headers=dict(headers))
        credentials = session.get_credentials()
        SigV4Auth(credentials, "execute-api", LOCAL_REGION).add_auth(request)
        return dict(request.headers)


def usage(team_id: str, user_id: str, run_id: str, event_id: str, amount: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/platform/agents",
        "type": "agent_run.usage",
        "subject": run_id,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": {
            "team_id": team_id,
            "trigger": {"kind": "user", "user_id": user_id},
            "credits": amount,
        },
    }
