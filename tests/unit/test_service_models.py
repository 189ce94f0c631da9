"""The part of botocore's data that the layer brings: enough, no more, and otherwise as botocore's.

Whatever is compared here is done twice, by clients of the session that functions use and by clients
of botocore as it is.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import OperationModel, Shape

from agent_credits.clients import CALLS, SERVICE_MODELS, aws_session
from tests.permissions import ROOT, operations
from tests.template import load_template
from tools.service_models import FOLDER, OPERATIONS, written

CALLED = [(service, name) for service, names in OPERATIONS.items() for name in sorted(names)]
AT_ONCE = CALLS.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))

# One region of each partition and one that opened after this botocore was published.
REGIONS = [
    *("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "us-iso-east-1"),
    *("us-isob-east-1", "eu-isoe-west-1", "us-isof-east-1", "eusc-de-east-1", "eu-north-9"),
]
# What differs from one call to the next; the signature has tests of its own.
NEVER_THE_SAME = {"amz-sdk-invocation-id", "Authorization", "X-Amz-Date"}


class Answered:
    """A client whose calls are all answered alike, and which notes what was asked."""

    def __init__(
        self,
        session: Any,
        service: str,
        body: str,
        status: int = 200,
        region: str = "us-east-1",
        account: str | None = None,
        config: Config = AT_ONCE,
    ) -> None:
        self.client = session.create_client(
            service,
            region_name=region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            aws_account_id=account,
            config=config,
        )
        self._status, self._body = status, body
        self.requests: list[tuple[str | None, str, dict[str, Any], Any]] = []
        # Region and service that each request was signed for.
        self.scopes: list[str] = []
        self.client.meta.events.register("before-send", self._answer)

    def call(self, operation: str, parameters: dict[str, Any]) -> Any:
        methods = self.client.meta.method_to_api_mapping
        (method,) = [method for method, name in methods.items() if name == operation]
        return getattr(self.client, method)(**parameters)

    def _answer(self, request: AWSRequest, **_: object) -> AWSResponse:
        headers = {n: v for n, v in request.headers.items() if n not in NEVER_THE_SAME}
        self.requests.append((request.method, request.url, headers, request.body))
        # AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, ...
        self.scopes.append("/".join(str(request.headers["Authorization"]).split("/")[2:4]))
        return AWSResponse(request.url, self._status, {}, _Raw(self._body))


class _Raw:
    def __init__(self, body: str) -> None:
        self._body = body

    def stream(self) -> list[bytes]:
        return [self._body.encode()]


@pytest.fixture(autouse=True)
def no_endpoint_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works with an emulator may have its address in the environment."""
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")


@pytest.fixture(scope="module")
def whole() -> Any:
    return botocore.session.get_session()


@pytest.fixture(scope="module")
def small() -> Any:
    return aws_session()


def operation_of(session: Any, service: str, operation: str) -> OperationModel:
    model: OperationModel = session.get_service_model(service).operation_model(operation)
    return model


def sample(shape: Shape, above: tuple[str, ...] = ()) -> Any:
    """Return a value with every member that there is, as deep as no shape is within itself."""
    inside = (*above, shape.name)
    match shape.type_name:
        case "structure":
            members = shape.members.items()
            return {n: sample(m, inside) for n, m in members if not _goes_round(m, inside)}
        case "list":
            return [] if _goes_round(shape.member, inside) else [sample(shape.member, inside)]
        case "map":
            return {"a key": sample(shape.value, inside)}
        case "string":
            return (*shape.enum, f"a text of {shape.name}")[0]
        case "blob":
            return b"a blob"
        case "boolean":
            return True
        case "timestamp":
            return datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
        case number:
            assert number in {"integer", "long", "double", "float"}
            return 7


def _goes_round(shape: Shape, above: tuple[str, ...]) -> bool:
    within = shape.value if shape.type_name == "map" else shape
    return shape.name in above or within.name in above


def as_json(content: Mapping[str, Any]) -> str:
    def encoded(value: Any) -> Any:
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value.timestamp()

    return json.dumps(content, default=encoded)


def as_xml(content: Mapping[str, str]) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in content.items())


def answer_of(operation: OperationModel) -> str:
    """Return a response that has all that the operation may return."""
    content = sample(operation.output_shape) if operation.output_shape else {}
    if operation.service_model.resolved_protocol == "query":
        name = operation.name
        result = f"<{name}Result>{as_xml(content)}</{name}Result>"
        return f"<{name}Response>{result}</{name}Response>"
    return as_json(content)


def error_of(operation: OperationModel, error: Shape) -> str:
    """Return a response that fails with this error, and says all that it may say."""
    code = error.metadata.get("error", {}).get("code", error.name)
    if operation.service_model.resolved_protocol == "query":
        content = as_xml({"Code": code, **sample(error)})
        return f"<ErrorResponse><Error>{content}</Error></ErrorResponse>"
    return as_json({"__type": f"a.namespace#{code}", **sample(error)})


def test_the_committed_files_are_what_the_pinned_botocore_gives() -> None:
    committed = {
        path.relative_to(FOLDER): path.read_text() for path in FOLDER.rglob("*") if path.is_file()
    }

    assert committed == written(), "write them anew: make service-models"
    assert FOLDER.samefile(SERVICE_MODELS)


def test_the_operations_are_those_that_the_functions_call() -> None:
    template = load_template()
    functions = [
        name
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    ]
    called = {call for function in functions for call in operations(template, function)}

    assert {f"{service}:{name}" for service, name in CALLED} == called


def test_a_call_more_and_a_call_less_are_noticed() -> None:
    run_queue = ROOT / "shared" / "agent_credits" / "run_queue.py"
    source = run_queue.read_text()
    changed = source.replace("change_message_visibility_batch(", "purge_queue(")
    assert changed != source

    before = operations(load_template(), "DebitRuns")
    after = operations(load_template(), "DebitRuns", {run_queue: changed})

    assert after - before == {"sqs:PurgeQueue"}
    assert before - after == {"sqs:ChangeMessageVisibilityBatch"}


def test_a_session_knows_the_services_that_are_called_and_no_others(small: Any) -> None:
    assert small.get_available_services() == sorted(OPERATIONS)


@pytest.mark.parametrize("service", OPERATIONS)
def test_a_client_has_the_operations_that_are_called_and_no_others(
    small: Any, service: str
) -> None:
    methods = Answered(small, service, "").client.meta.method_to_api_mapping

    assert {*methods.values()} == OPERATIONS[service]


@pytest.mark.parametrize(("service", "name"), CALLED)
def test_an_operation_is_asked_and_answered_as_with_the_whole_models(
    whole: Any, small: Any, service: str, name: str
) -> None:
    operation = operation_of(whole, service, name)
    answer = answer_of(operation)
    clients = [Answered(session, service, answer) for session in (whole, small)]

    expected, given = [client.call(name, sample(operation.input_shape)) for client in clients]

    assert given == expected
    assert clients[0].requests == clients[1].requests
    # What was to be compared is there.
    assert len(clients[0].requests) == 1
    assert given.keys() >= (operation.output_shape.members if operation.output_shape else {}).keys()


@pytest.mark.parametrize(("service", "name"), CALLED)
def test_an_operation_fails_as_with_the_whole_models(
    whole: Any, small: Any, service: str, name: str
) -> None:
    operation = operation_of(whole, service, name)
    assert operation.error_shapes

    for error in operation.error_shapes:
        failed = []
        for session in (whole, small):
            client = Answered(session, service, error_of(operation, error), 400)
            with pytest.raises(ClientError) as raised:
                client.call(name, sample(operation.input_shape))
            assert type(raised.value) is getattr(client.client.exceptions, error.name)
            failed.append(raised.value.response)

        assert failed[0] == failed[1]
        assert failed[1].keys() >= error.members.keys() - {"message", "Message"}


def test_who_loses_a_race_is_told_the_row_that_won(small: Any) -> None:
    row = {"pk": {"S": "ACCOUNT#org/acme"}, "version": {"N": "8"}}
    lost = as_json({"__type": "a#ConditionalCheckFailedException", "Item": row})
    dynamodb = Answered(small, "dynamodb", lost, 400)

    with pytest.raises(dynamodb.client.exceptions.ConditionalCheckFailedException) as raised:
        dynamodb.call("PutItem", {"TableName": "accounts", "Item": row})

    assert raised.value.response["Item"] == row


def test_an_insert_that_is_a_repeat_is_told_the_row_that_is_there(small: Any) -> None:
    row = {"pk": {"S": "EVENT#1"}, "digest": {"B": b"a digest"}}
    answer = as_json({"Responses": [{"Error": {"Code": "DuplicateItem", "Item": row}}]})
    dynamodb = Answered(small, "dynamodb", answer)

    response = dynamodb.call("BatchExecuteStatement", {"Statements": [{"Statement": "INSERT"}]})

    assert response["Responses"] == [{"Error": {"Code": "DuplicateItem", "Item": row}}]


def endpoint_of(session: Any, service: str, **how: Any) -> tuple[str, str]:
    """Return where a call goes, and the region and service that it is signed for."""
    name = min(OPERATIONS[service])
    operation = operation_of(session, service, name)
    client = Answered(session, service, answer_of(operation), **how)
    client.call(name, sample(operation.input_shape))
    ((_, url, _, _),), (scope,) = client.requests, client.scopes
    return url, scope


@pytest.mark.parametrize("service", OPERATIONS)
@pytest.mark.parametrize("region", REGIONS)
def test_a_call_goes_where_botocore_sends_it(
    whole: Any, small: Any, service: str, region: str
) -> None:
    expected, given = [endpoint_of(session, service, region=region) for session in (whole, small)]

    assert given == expected
    url, scope = given
    assert f"{service}.{region}." in url
    assert scope == f"{region}/{service}"


@pytest.mark.parametrize("service", OPERATIONS)
@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1", "us-iso-east-1"])
@pytest.mark.parametrize(
    ("how", "marked"),
    [
        ({"config": AT_ONCE.merge(Config(use_fips_endpoint=True))}, "-fips."),
        ({"config": AT_ONCE.merge(Config(use_dualstack_endpoint=True))}, ".api.aws"),
        ({"account": "123456789012"}, "123456789012.ddb."),
    ],
    ids=["fips", "dual-stack", "account"],
)
def test_wishes_for_endpoints_are_kept(
    whole: Any, small: Any, service: str, region: str, how: dict[str, Any], marked: str
) -> None:
    expected, given = [
        endpoint_of(session, service, region=region, **how) for session in (whole, small)
    ]

    assert given == expected
    if (service, region) == ("dynamodb", "us-east-1"):
        assert marked in given[0]


@pytest.mark.parametrize("service", OPERATIONS)
def test_all_partitions_have_the_regions_that_botocore_knows(
    whole: Any, small: Any, service: str
) -> None:
    expected, given = [
        {
            partition: session.get_available_regions(service, partition, allow_non_regional=True)
            for partition in session.get_available_partitions()
        }
        for session in (whole, small)
    ]

    assert given == expected
    assert {"us-east-1", "eu-central-1"} <= {*given["aws"]}


def test_what_is_not_in_the_layer_comes_from_the_botocore_that_runs(small: Any) -> None:
    data = small.get_component("data_loader")

    for name in ("partitions", "_retry", "dynamodb/2012-08-10/endpoint-rule-set-1"):
        assert data.load_data_with_path(name)[1].startswith(Loader.BUILTIN_DATA_PATH)
    assert data.load_data_with_path("endpoints")[1].startswith(str(SERVICE_MODELS))


def test_models_of_ones_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = json.loads((SERVICE_MODELS / "dynamodb/2012-08-10/service-2.json").read_text())
    model["metadata"]["serviceFullName"] = "a model of one's own"
    folder = tmp_path / "dynamodb" / "2012-08-10"
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text(json.dumps(model))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))

    session = aws_session()

    names = [session.get_service_model(s).metadata["serviceFullName"] for s in ("dynamodb", "sqs")]
    assert names == ["a model of one's own", "Amazon Simple Queue Service"]


def test_endpoints_of_ones_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = json.loads((SERVICE_MODELS / "endpoints.json").read_text())
    for partition in endpoints["partitions"]:
        partition["dnsSuffix"] = "example.org"
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))

    expected, given = [
        endpoint_of(session, "sqs") for session in (botocore.session.get_session(), aws_session())
    ]

    assert given == expected
    assert given[0] == "https://sqs.us-east-1.example.org/"
