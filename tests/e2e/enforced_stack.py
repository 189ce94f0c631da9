"""An embedded stack whose roles may do what their policies allow, and nothing else.

The emulator writes down what each role asked for, with the request, so a request can be made again
once the role's policy has changed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest

from agent_credits_local import embedded_stack
from agent_credits_local.checkout import Checkout
from agent_credits_local.session import LOCAL_REGION
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget
from tests.permissions import ACTION_OF_OPERATION
from tests.template import Template

EMULATOR = Path(__file__).parent / "run_enforcing_ministack.py"
CALL_SECONDS_MAX = 10.0
# The template lets only services of AWS take on its roles, and here a test acts as each of them.
ANYBODY_MAY_TAKE_IT_ON = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
)


@dataclass(frozen=True)
class EnforcingCheckout(Checkout):
    """A checkout whose emulator enforces IAM, and writes what it was asked into a file."""

    questions: Path

    @property
    def ministack_command(self) -> Sequence[str]:
        # -P keeps the modules beside the program out of its imports.
        program = [str(self.ministack_python), "-P", str(EMULATOR)]
        return [*program, str(self.questions), json.dumps(ACTION_OF_OPERATION)]


@dataclass(frozen=True, order=True)
class Permission:
    """An action of a statement, on one of its resources; role and resource by logical id."""

    role: str
    sid: str
    action: str
    resource: str

    def __str__(self) -> str:
        return f"{self.role}-{self.sid}-{self.action}-{self.resource}"


@dataclass(frozen=True)
class Question:
    """What a role, by logical id, asked for with a request, and whether it was allowed."""

    role: str
    action: str
    arn: str
    is_allowed: bool
    request: Mapping[str, Any]

    @property
    def body(self) -> str:
        body: str = self.request["body"]
        return body

    def __str__(self) -> str:
        return f"{self.role}: {self.action} on {self.arn}"


def refused(questions: Sequence[Question]) -> list[str]:
    """Return what a role asked for and was not allowed, each once."""
    return sorted({str(question) for question in questions if not question.is_allowed})


def statements_of(template: Template) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each statement of each role, whose logical id stands before it."""
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::IAM::Role":
            (policy,) = resource["Properties"]["Policies"]
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement


def permissions_of(template: Template) -> Iterator[Permission]:
    """Yield every permission of every role that the template writes out."""
    for role, statement in statements_of(template):
        for action in _listed(statement["Action"]):
            for resource in _listed(statement["Resource"]):
                yield Permission(role, statement["Sid"], action, _named(template, resource))


class EnforcedStack:
    def __init__(
        self, target: LocalTarget, template: Template, questions: Path, folder: StateFolder
    ) -> None:
        self.target = target
        self.folder = folder
        self._template = template
        self._questions = questions

    def questions(self) -> list[Question]:
        """Return what was asked so far in the name of the template's roles, oldest first."""
        # What stands after the last line's end is being written.
        written = self._questions.read_text().rpartition("\n")[0]
        lines = map(json.loads, written.splitlines())
        return [
            Question(self._roles[q["role"]], q["action"], q["arn"], q["is_allowed"], q["request"])
            for q in lines
            if q["role"] in self._roles
        ]

    def asked(self, permission: Permission, questions: Sequence[Question]) -> list[Question]:
        """Return the questions that this permission answers."""
        return [
            question
            for question in questions
            if (question.role, question.action) == (permission.role, permission.action)
            and fnmatchcase(question.arn, self.arn_of(permission))
        ]

    def arn_of(self, permission: Permission) -> str:
        """Return the permission's resource as the deployed policy names it."""
        return self._arns[permission]

    def physical_id(self, logical_id: str) -> str:
        return self._physical_ids[logical_id]

    def session(self, role: str) -> boto3.Session:
        """Return a session of the role, which the account may take on here."""
        if role not in self._sessions:
            name = self.physical_id(role)
            self.iam.update_assume_role_policy(RoleName=name, PolicyDocument=ANYBODY_MAY_TAKE_IT_ON)
            self._sessions[role] = self._take_on(name)
        return self._sessions[role]

    def client(self, service: str, role: str | None = None) -> Any:
        """Return a client of a role, or else of the account's administrator."""
        return self._client_of(self.target.session if role is None else self.session(role), service)

    def client_of_a_role_with(self, policy: str, service: str) -> Any:
        """Return a client of a new role that has this managed policy of the stack, and no other."""
        return self._client_of(self.session_of_a_role_with(policy), service)

    def session_of_a_role_with(self, policy: str) -> boto3.Session:
        """Return a session of a new role that has this managed policy of the stack alone."""
        name = f"has-{policy}"
        self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=ANYBODY_MAY_TAKE_IT_ON)
        self.iam.attach_role_policy(RoleName=name, PolicyArn=self.physical_id(policy))
        return self._take_on(name)

    @cached_property
    def iam(self) -> Any:
        return self.client("iam")

    def ask_again(self, question: Question, body: str | None = None) -> bool:
        """Make the question's request again as its role; return whether it was allowed."""
        before = len(self.questions())
        status = self._send(question, question.body if body is None else body)
        again = [
            later.is_allowed
            for later in self.questions()[before:]
            if (later.role, later.action, later.arn)
            == (question.role, question.action, question.arn)
        ]
        assert again, f"the emulator did not ask again: {question}"
        is_allowed = all(again)
        assert is_allowed or status >= 400, f"refused, and answered with {status}: {question}"
        return is_allowed

    @contextmanager
    def naming_refusals(self) -> Iterator[None]:
        """Add to an error which permissions were missing by then, because they may be its cause."""
        try:
            yield
        except BaseException as error:
            error.add_note(f"refused by then: {refused(self.questions()) or 'nothing'}")
            raise

    @contextmanager
    def without(self, permission: Permission) -> Iterator[None]:
        """Take the permission's action from its statement, and give it back afterwards."""
        role = self.physical_id(permission.role)
        name, document = self._policies[permission.role]
        statements = []
        for statement in document["Statement"]:
            kept = _listed(statement["Action"])
            if statement["Sid"] == permission.sid:
                kept = [action for action in kept if action != permission.action]
            if kept:
                statements.append({**statement, "Action": kept})
        if statements:
            rest = json.dumps({**document, "Statement": statements})
            self.iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=rest)
        else:
            self.iam.delete_role_policy(RoleName=role, PolicyName=name)
        try:
            yield
        finally:
            self.iam.put_role_policy(
                RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document)
            )

    def _client_of(self, session: boto3.Session, service: str) -> Any:
        return session.client(
            service, endpoint_url=self.target.endpoint_url, config=self.target.config
        )

    def _take_on(self, role_name: str) -> boto3.Session:
        arn = self.iam.get_role(RoleName=role_name)["Role"]["Arn"]
        taken_on = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")
        credentials = taken_on["Credentials"]
        return boto3.Session(
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials["SessionToken"],
            region_name=LOCAL_REGION,
        )

    def _send(self, question: Question, body: str) -> int:
        """Send the request, signed with the role's credentials; return the status."""
        endpoint = self.target.endpoint_url
        assert endpoint
        request = AWSRequest(
            method=question.request["method"],
            url=endpoint + question.request["path"],
            data=body.encode(),
            headers=question.request["headers"],
        )
        service = question.action.partition(":")[0]
        credentials = self.session(question.role).get_credentials()
        sign = S3SigV4Auth if service == "s3" else SigV4Auth
        sign(credentials, service, LOCAL_REGION).add_auth(request)
        # http.client uses no proxy, which could not reach this machine.
        address = urlsplit(endpoint)
        connection = HTTPConnection(address.hostname, address.port, timeout=CALL_SECONDS_MAX)
        try:
            connection.request(
                request.method, question.request["path"], body.encode(), dict(request.headers)
            )
            return connection.getresponse().status
        finally:
            connection.close()

    @cached_property
    def _sessions(self) -> dict[str, boto3.Session]:
        return {}

    @cached_property
    def _roles(self) -> Mapping[str, str]:
        """The logical id of each role, by its name."""
        names = {role for role, _ in statements_of(self._template)}
        return {self.physical_id(role): role for role in names}

    @cached_property
    def _policies(self) -> Mapping[str, tuple[str, Any]]:
        """The name and the document of each role's one policy, as deployed."""
        policies = {}
        for name, role in self._roles.items():
            (policy,) = self.iam.list_role_policies(RoleName=name)["PolicyNames"]
            there = self.iam.get_role_policy(RoleName=name, PolicyName=policy)
            policies[role] = (policy, there["PolicyDocument"])
        return policies

    @cached_property
    def _arns(self) -> Mapping[Permission, str]:
        deployed = [
            arn
            for role, statement in self._deployed_statements()
            for _ in _listed(statement["Action"])
            for arn in _listed(statement["Resource"])
        ]
        return dict(zip(permissions_of(self._template), deployed, strict=True))

    def _deployed_statements(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield what was deployed of the template's statements, in the template's order."""
        left = {role: iter(document["Statement"]) for role, (_, document) in self._policies.items()}
        for role, statement in statements_of(self._template):
            deployed = next(left[role])
            assert deployed["Sid"] == statement["Sid"]
            yield role, deployed

    @cached_property
    def _physical_ids(self) -> Mapping[str, str]:
        described = self.client("cloudformation").describe_stack_resources(
            StackName=embedded_stack.STACK_NAME
        )
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in described["StackResources"]
        }


def _named(template: Template, reference: Any) -> str:
    """Return the one resource of the template that a reference names, by whichever function."""
    words = set(re.findall(r"\w+", json.dumps(reference)))
    (name,) = words & template["Resources"].keys()
    return name


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
