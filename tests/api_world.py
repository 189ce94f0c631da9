"""A stack behind the HTTP API without AWS: rows in memory, an issuer of tokens, both doors."""

import base64
import json
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from agent_credits.api.tokens import IssuerKeys, Tokens
from agent_credits.aws.http_api import Door, HttpApi
from agent_credits.billing.directory import Directory
from agent_credits.commit.write_protocol import Pause
from agent_credits.intake.debits import Debits
from agent_credits.notices.announcements import AccountRecord, NoticeSettings, notices_of
from tests.memory_rows import MemoryRows
from tests.unit.builders import NOW, grant_change, open_account, pause, sample_rows

if TYPE_CHECKING:
    from agent_credits.ledger.reloads import ReloadRequest
    from agent_credits.notices.notice import Notice

ISSUER = "https://id.example.com"
AUDIENCE = "agent-credits"
API_IDS: Mapping[Door, str] = {"producers": "producersapi", "people": "peopleapi"}
PRODUCER_ARN = "arn:aws:iam::000000000000:role/platform"
BASE_URL = "https://docs.example.com"


@cache
def issuer_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: ec.EllipticCurvePrivateKey, key_id: str = "k1") -> dict[str, Any]:
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": key_id, "alg": "ES256", "use": "sig"}


def jwks() -> dict[str, Any]:
    return {"keys": [public_jwk(issuer_key())]}


def token(
    sub: str = "ana",
    *,
    teams: tuple[str, ...] = ("acme",),
    role: str | None = None,
    key: Any = None,
    headers: Mapping[str, Any] | None = None,
    algorithm: str = "ES256",
    **claims: Any,
) -> str:
    """Return a token of the issuer that is valid for an hour, apart from what the test changes."""
    now = int(time.time())
    payload: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 3_600,
        "sub": sub,
        "teams": list(teams),
        **({"role": role} if role else {}),
        **claims,
    }
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(
        payload, key or issuer_key(), algorithm=algorithm, headers={"kid": "k1", **(headers or {})}
    )


class Got(NamedTuple):
    """An answer as the gateway passes it on."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def gateway_event(
    method: str,
    path: str,
    body: object = None,
    *,
    door: Door = "producers",
    bearer: str | None = None,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the event of a request as an HTTP API sends it, payload format 2.0."""
    sent = {"content-type": content_type, **(headers or {})}
    if bearer is not None:
        sent["authorization"] = f"Bearer {bearer}"
    context: dict[str, Any] = {
        "apiId": API_IDS[door],
        "http": {"method": method, "path": path, "sourceIp": "127.0.0.1", "userAgent": "tests"},
        "requestId": "request-1",
        "stage": "$default",
    }
    if door == "producers":
        context["authorizer"] = {"iam": {"userArn": PRODUCER_ARN}}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "ANY /v1/{proxy+}",
        "rawPath": path,
        "rawQueryString": "&".join(f"{k}={v}" for k, v in (query or {}).items()),
        "headers": sent,
        "requestContext": context,
        "isBase64Encoded": False,
    }
    if query:
        event["queryStringParameters"] = dict(query)
    if body is not None:
        text = body if isinstance(body, str) else json.dumps(body)
        event["body"] = text
        if content_type != "application/json":
            # As the gateway does with what it does not know to be text.
            event["body"] = base64.b64encode(text.encode(errors="surrogatepass")).decode()
            event["isBase64Encoded"] = True
    return event


class ApiWorld:
    """The API over rows in memory; `now` moves only when a test moves it."""

    def __init__(self, rows: MemoryRows | None = None, lost: Pause = pause) -> None:
        self.rows = rows if rows is not None else sample_rows()
        self.now: datetime = NOW
        self.asked: list[ReloadRequest] = []
        self.api = self.worker(lost)

    def worker(self, lost: Pause = pause, attempts_max: int = 10) -> HttpApi:
        """Return another copy of the function."""
        directory = Directory(self.rows)
        keys = IssuerKeys(jwks, lambda: self.now)
        return HttpApi(
            self.rows,
            directory,
            Debits(self.rows, directory, lost, attempts_max=attempts_max),
            lambda: Tokens(keys, ISSUER, AUDIENCE),
            self.asked.append,
            lost,
            doors={api_id: door for door, api_id in API_IDS.items()},
            problem_type_base_url=BASE_URL,
        )

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Got:
        return self.send(gateway_event(method, path, body, **more))

    def send(self, event: Mapping[str, Any]) -> Got:
        answered = self.api.answer(json.loads(json.dumps(event)), self.now, lambda: True)
        if answered.fault is not None:
            raise answered.fault
        return got(answered.response)

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


def got(response: Mapping[str, Any]) -> Got:
    headers = dict(response.get("headers") or {})
    for name, values in (response.get("multiValueHeaders") or {}).items():
        headers[name] = ",".join(values)
    return Got(response["statusCode"], headers, response.get("body") or "")


def reservation(run_id: str = "run-1", **fields: Any) -> dict[str, Any]:
    """Return the body that reserves for a run of ana's."""
    return {
        "run_id": run_id,
        "source": "/platform/agents",
        "team_id": "acme",
        "trigger": {"kind": "user", "user_id": "ana"},
        "credits": "75",
        **fields,
    }


def world_with(credits_of_ana: str = "100") -> ApiWorld:
    """Return a world in which ana's account holds so much."""
    world = ApiWorld()
    open_account(world.rows, grant_change("g-1", credits=credits_of_ana))
    return world


def notices_published(rows: MemoryRows) -> "list[Notice]":
    """Return what is announced of everything that was committed so far."""
    records = [AccountRecord(old, new) for old, new in rows.stream]
    settings = NoticeSettings(BASE_URL)
    return [notice for record in records for notice in notices_of(record, settings)]
