"""What IAM would answer: the template's policies, evaluated for a request as AWS does.

It knows what the template uses of the policy language, and fails on anything else, so that no
clause is passed over. The account's own identities are taken to have every permission where a test
asks what a resource refuses.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from tests.template import Template

ACCOUNT = "111122223333"
REGION = "us-east-1"
PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "agent-credits",
}

ACTIONS_ON_OBJECTS = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"}

Statement = Mapping[str, Any]
Answer = Literal["allowed", "denied", "not allowed"]


@dataclass(frozen=True)
class Request:
    """`account`: whose identity asks; None where `service`, one of AWS's own, asks as itself.

    Where neither is named, nobody signed the request. `owner`: whose resource it is.
    """

    action: str
    resource: str
    account: str | None = ACCOUNT
    service: str | None = None
    owner: str = ACCOUNT
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> Mapping[str, Any]:
        """The condition keys, with those that AWS itself puts into every request."""
        of_everybody: dict[str, Any] = {
            "aws:SecureTransport": "true",
            "aws:ResourceAccount": self.owner,
        }
        # An anonymous request says nothing about a principal.
        if self.account or self.service:
            of_everybody["aws:PrincipalIsAWSService"] = "true" if self.service else "false"
        if self.account:
            of_everybody["aws:PrincipalAccount"] = self.account
        return {**of_everybody, **self.context}


def arn_of(logical_id: str) -> str:
    """Return what stands here for the ARN of a resource of the stack."""
    return f"arn:aws:any:{REGION}:{ACCOUNT}:{logical_id}"


def arn_of_resource(logical_id: str, action: str) -> str:
    """Return what the action is done to: the resource, or an object of the bucket."""
    arn = arn_of(logical_id)
    return f"{arn}/object" if action in ACTIONS_ON_OBJECTS else arn


def evaluate(statements: Iterable[Statement], request: Request) -> Answer:
    """Return what the statements say, a refusal before a permission, as IAM does."""
    effects = {s["Effect"] for s in statements if _applies(s, request)}
    assert effects <= {"Allow", "Deny"}
    if "Deny" in effects:
        return "denied"
    return "allowed" if effects else "not allowed"


def resource_policies(template: Template) -> dict[str, list[Statement]]:
    """Return the statements of the policy that a queue, topic, table or bucket has, by its id."""
    policies: dict[str, list[Statement]] = {}
    for attached, document in resource_policy_documents(template):
        for name in attached:
            assert name not in policies, f"of two policies {name} would keep the last one alone"
            policies[name] = _resolved(document)["Statement"]
    return policies


def resource_policy_documents(template: Template) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield each policy's document, with the queues, topic, table or bucket that it is for."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::SQS::QueuePolicy":
                attached = [_attached_to(queue) for queue in properties["Queues"]]
                yield attached, properties["PolicyDocument"]
            case "AWS::SNS::TopicPolicy":
                attached = [_attached_to(topic) for topic in properties["Topics"]]
                yield attached, properties["PolicyDocument"]
            case "AWS::S3::BucketPolicy":
                yield [_attached_to(properties["Bucket"])], properties["PolicyDocument"]
            case "AWS::DynamoDB::Table" if "ResourcePolicy" in properties:
                yield [name], properties["ResourcePolicy"]["PolicyDocument"]


def _attached_to(reference: Any) -> str:
    match reference:
        case {"Ref": str(name)}:
            return name
        case {"Fn::If": [_, {"Ref": str(name)}, {"Ref": "AWS::NoValue"}]}:
            # The policy is asked as if everything were deployed.
            return name
        case _:
            raise AssertionError(f"not known here: {reference}")


def role_policies(template: Template) -> dict[str, list[Statement]]:
    """Return every statement of each role's policies, its own or attached, by logical id."""
    attached = [
        resource["Properties"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::IAM::Policy"
    ]
    return {
        name: [
            statement
            for policy in [
                *resource["Properties"].get("Policies", []),
                *(policy for policy in attached if {"Ref": name} in policy["Roles"]),
            ]
            for statement in _resolved(policy["PolicyDocument"])["Statement"]
        ]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::IAM::Role"
    }


def managed_policies(template: Template) -> dict[str, list[Statement]]:
    return {
        name: _resolved(resource["Properties"]["PolicyDocument"])["Statement"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::IAM::ManagedPolicy"
    }


def _resolved(value: Any) -> Any:
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
            return PSEUDO_PARAMETERS.get(name) or arn_of(name)
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([^}]+)\}", lambda name: _substituted(name[1]), text)
        case dict():
            assert not any(key.startswith("Fn::") for key in value), f"not known here: {value}"
            return {key: _resolved(inner) for key, inner in value.items()}
        case list():
            return [_resolved(inner) for inner in value]
        case _:
            return value


def _substituted(name: str) -> str:
    if name.endswith(".Arn"):
        return arn_of(name.removesuffix(".Arn"))
    # Otherwise the id of an API of the stack.
    return PSEUDO_PARAMETERS.get(name, name)


def _applies(statement: Statement, request: Request) -> bool:
    unknown = statement.keys() - {
        *("Sid", "Effect", "Principal", "Action", "Resource", "Condition"),
    }
    assert not unknown, f"not known here: {unknown}"
    return (
        _names(statement.get("Principal", "*"), request)
        and any(fnmatchcase(request.action, action) for action in _listed(statement["Action"]))
        and any(fnmatchcase(request.resource, arn) for arn in _listed(statement["Resource"]))
        and all(
            _holds(operator, key, _listed(wanted), request.keys)
            for operator, tested in statement.get("Condition", {}).items()
            for key, wanted in tested.items()
        )
    )


def _names(principal: Any, request: Request) -> bool:
    """A statement of an identity's policy names nobody, and is about whoever has the policy."""
    match principal:
        case "*":
            return True
        case {"Service": services}:
            return request.service in _listed(services)
        case {"AWS": accounts}:
            return any(f"::{request.account}:" in account for account in _listed(accounts))
        case _:
            raise AssertionError(f"not known here: {principal}")


def _holds(operator: str, key: str, wanted: list[str], keys: Mapping[str, Any]) -> bool:
    if operator == "Null":
        return (key not in keys) == (wanted == ["true"])
    if operator.startswith("ForAllValues:"):
        test = operator.removeprefix("ForAllValues:")
        return all(_test(test, value, wanted) for value in _listed(keys.get(key, [])))
    if operator.endswith("IfExists"):
        return key not in keys or _test(operator.removesuffix("IfExists"), keys[key], wanted)
    # Without the key, a test fails, and its negation holds.
    return _test(operator, keys[key], wanted) if key in keys else "Not" in operator


def _test(operator: str, value: str, wanted: list[str]) -> bool:
    match operator:
        case "StringEquals" | "Bool":
            return value in wanted
        case "StringNotEquals":
            return value not in wanted
        case "StringLike" | "ArnLike" | "ArnEquals":
            return any(fnmatchcase(value, pattern) for pattern in wanted)
        case _:
            raise AssertionError(f"not known here: {operator}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
