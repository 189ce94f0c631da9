"""What each function calls of AWS, read from its code, and which actions its role allows.

The code is followed from functions/<name>/app.py through what it imports of the package: a function
or method counts as called when its name stands in code that counts as called, which errs on the
side of too many. Each adapter is given its client and the names of its resources where app.py
builds it; a call is `self._client.<method>`, on whichever of these resources the same method names.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import boto3

from tests.template import Template

ROOT = Path(__file__).parents[1]
PACKAGE = "agent_credits"

# An action and the logical id of the resource that it is done to.
Permission = tuple[str, str]
Sources = Mapping[Path, str]
Definition = ast.FunctionDef | ast.ClassDef

# Where the action that IAM asks for is not called like the operation.
ACTION_OF_OPERATION = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sns:PublishBatch": "sns:Publish",
    # A transaction is allowed by what it holds, and ours puts.
    "dynamodb:TransactWriteItems": "dynamodb:PutItem",
}
STATEMENTS_OF_PARTIQL = {"dynamodb:BatchExecuteStatement", "dynamodb:ExecuteStatement"}
PARTIQL_VERB = re.compile(r"(INSERT|SELECT|UPDATE|DELETE) ")
OBJECTS_OF_BUCKET = re.compile(r"\$\{(\w+)\.Arn\}/\*")
# What an attribute of a client is that is no operation.
NO_OPERATION = {"exceptions", "meta"}
# What Lambda does in the function's name for each of its event sources.
POLLS_QUEUE = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
POLLS_STREAM = (
    *("dynamodb:DescribeStream", "dynamodb:GetRecords"),
    *("dynamodb:GetShardIterator", "dynamodb:ListStreams"),
)
# And where it puts what it gave up on.
SETS_ASIDE = ("s3:PutObject", "s3:ListBucket")
WRITES_LOGS = ("logs:CreateLogStream", "logs:PutLogEvents")
# What SNS does with the topic's key in the name of whoever publishes.
ENCRYPTS = ("kms:GenerateDataKey", "kms:Decrypt")
# The operations that a library calls on the client that it is given, by the library's class; these
# actions are called like their operations. Powertools gets an item only where a put that fails is
# not answered with it, as DynamoDB does; tests/e2e/test_enforced_permissions.py holds it to that.
LIBRARIES = {
    "DynamoDBPersistenceLayer": (
        *("dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"),
    ),
}


class Call(NamedTuple):
    """The action that IAM asks for, and the logical id of the resource."""

    action: str
    resource: str


@dataclass(frozen=True)
class Adapter:
    """A class that is given a client; per argument the logical id of the resource it names."""

    name: str
    service: str
    client_at: int
    resources: tuple[str | None, ...]


def called(template: Template, function: str, sources: Sources | None = None) -> set[Permission]:
    """Return what a function needs, `sources` standing in for files of the same path."""
    properties = template["Resources"][function]["Properties"]
    by_code = {(call.action, call.resource) for call in _calls(properties, sources or {})}
    return by_code | called_by_aws(template, function, by_code)


def called_by_aws(
    template: Template, function: str, by_code: Iterable[Permission]
) -> set[Permission]:
    """Return what Lambda and SNS do in the function's name, given what its code calls."""
    needed = set(_called_by_lambda(template["Resources"][function]["Properties"]))
    for action, resource in by_code:
        key = template["Resources"][resource]["Properties"].get("KmsMasterKeyId")
        if action == "sns:Publish" and key:
            needed |= {(encrypts, _referred(key)) for encrypts in ENCRYPTS}
    return needed


def allowed(template: Template, function: str) -> set[Permission]:
    """Return what the function's role allows, whatever the condition."""
    role = template["Resources"][function]["Properties"]["Role"]
    policies = [
        *template["Resources"][_referred(role)]["Properties"]["Policies"],
        *(
            resource["Properties"]
            for resource in template["Resources"].values()
            if resource["Type"] == "AWS::IAM::Policy"
            and {"Ref": _referred(role)} in resource["Properties"]["Roles"]
        ),
    ]
    return {
        (action, _referred(resource))
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    }


def _calls(properties: Mapping[str, Any], sources: Sources) -> Iterator[Call]:
    code = _Code.of(ROOT / properties["CodeUri"] / "app.py", sources)
    variables = properties["Environment"]["Variables"]
    yield from code.calls_of_app(variables)
    for adapter in code.adapters(variables):
        yield from code.calls_of(adapter)


def _called_by_lambda(properties: Mapping[str, Any]) -> Iterator[Permission]:
    for event in properties.get("Events", {}).values():
        source = event["Properties"]
        match event["Type"]:
            case "SQS":
                yield from ((action, _referred(source["Queue"])) for action in POLLS_QUEUE)
            case "DynamoDB":
                yield from ((action, _referred(source["Stream"])) for action in POLLS_STREAM)
                failures = source["DestinationConfig"]["OnFailure"]["Destination"]
                yield from ((action, _referred(failures)) for action in SETS_ASIDE)
            case other:
                raise AssertionError(f"not known here: what Lambda does for {other}")
    log_group = _referred(properties["LoggingConfig"]["LogGroup"])
    yield from ((action, log_group) for action in WRITES_LOGS)


@dataclass(frozen=True)
class _Code:
    """app.py, and the modules of the package that it imports, directly or not."""

    app: ast.Module
    modules: tuple[ast.Module, ...]

    @staticmethod
    def of(app_file: Path, sources: Sources) -> "_Code":
        def parsed(path: Path) -> ast.Module:
            return ast.parse(sources[path]) if path in sources else _parsed(path)

        app = parsed(app_file)
        modules: dict[Path, ast.Module] = {}
        waiting = list(_imports(app))
        while waiting:
            path = waiting.pop()
            if path not in modules:
                modules[path] = parsed(path)
                waiting += _imports(modules[path])
        return _Code(app, tuple(modules.values()))

    def adapters(self, variables: Mapping[str, Any]) -> Iterator[Adapter]:
        """Yield what app.py builds with a client, whether written in place or given a name."""
        named = self._named()
        for call in ast.walk(self.app):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            arguments = _arguments(call)
            services = [_service(named.get(getattr(a, "id", ""), a)) for a in arguments]
            given = [(at, service) for at, service in enumerate(services) if service]
            if given:
                ((client_at, service),) = given
                behind = [_variable(argument) for argument in arguments]
                resources = tuple(_referred(variables[v]) if v else None for v in behind)
                yield Adapter(call.func.id, service, client_at, resources)

    def calls_of_app(self, variables: Mapping[str, Any]) -> Iterator[Call]:
        """Yield what app.py itself calls on a client that it gave a name."""
        named = self._named()
        for call in ast.walk(self.app):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if (
                    service := _service(named.get(name))
                ):
                    behind = [v for a in _arguments(call) if (v := _variable(a))]
                    assert behind, f"{name}.{method} is called without a resource"
                    for action in _actions_of(service, method, self.app):
                        for v in behind:
                            yield Call(action, _referred(variables[v]))

    def _named(self) -> dict[str, ast.expr]:
        return {
            target.id: node.value
            for node in ast.walk(self.app)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def calls_of(self, adapter: Adapter) -> Iterator[Call]:
        if adapter.name in LIBRARIES:
            (resource,) = [resource for resource in adapter.resources if resource]
            yield from (Call(action, resource) for action in LIBRARIES[adapter.name])
            return
        definition = self._class(adapter.name)
        kept_as = _kept_arguments(definition)
        resource_of = dict(zip(kept_as.values(), adapter.resources, strict=False))
        reached = self._reached()
        methods = {
            method.name: method
            for method in _methods(definition)
            if method.name in reached or method.name.startswith("__")
        }
        for method in methods.values():
            actions = set(_actions(method, adapter.service, self._module_of(definition)))
            touched = _touched(method, methods, resource_of) if actions else set()
            assert touched or not actions, f"{adapter.name}.{method.name} calls without a resource"
            for action in actions:
                yield from (Call(action, resource) for resource in touched)
        for inner in self._handed_on(adapter, definition):
            yield from self.calls_of(inner)

    def _handed_on(self, adapter: Adapter, definition: ast.ClassDef) -> Iterator[Adapter]:
        """Yield the adapters that this one's constructor gives its client to."""
        parameters = list(_kept_arguments(definition))
        resource_of = dict(zip(parameters, adapter.resources, strict=False))
        client = parameters[adapter.client_at]
        for call in ast.walk(_constructor(definition)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                names = [getattr(argument, "id", "") for argument in _arguments(call)]
                if client in names:
                    resources = tuple(resource_of.get(name) for name in names)
                    at = names.index(client)
                    yield Adapter(call.func.id, adapter.service, at, resources)

    def _reached(self) -> set[str]:
        """Return every name that stands in code which is reached from app.py."""
        names = _names(self.app)
        definitions = [
            definition
            for module in self.modules
            for definition in module.body
            if isinstance(definition, Definition)
        ]
        # What runs when a module is imported.
        for module in self.modules:
            for statement in module.body:
                if not isinstance(statement, Definition):
                    names |= _names(statement)
        waiting = list(definitions)
        while reached := [d for d in waiting if d.name in names]:
            waiting = [d for d in waiting if d.name not in names]
            for definition in reached:
                if isinstance(definition, ast.ClassDef):
                    # Its methods are called when their own names are.
                    waiting += _methods(definition)
                    names |= {"__init__", "__call__", "__enter__", "__exit__", "__post_init__"}
                    for statement in definition.body:
                        if not isinstance(statement, ast.FunctionDef):
                            names |= _names(statement)
                else:
                    names |= _names(definition)
        return names

    def _class(self, name: str) -> ast.ClassDef:
        (definition,) = [
            definition
            for module in self.modules
            for definition in module.body
            if isinstance(definition, ast.ClassDef) and definition.name == name
        ]
        return definition

    def _module_of(self, definition: ast.ClassDef) -> ast.Module:
        return next(module for module in self.modules if definition in module.body)


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imports(module: ast.Module) -> Iterator[Path]:
    for node in ast.walk(module):
        names: Iterable[str] = ()
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from agent_credits.aws import codec` names a module as well.
            names = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
        for name in names:
            path = ROOT / "shared" / Path(*name.split(".")).with_suffix(".py")
            if name.startswith(f"{PACKAGE}.") and path.exists():
                yield path


def _names(node: ast.AST) -> set[str]:
    return {
        inner.attr if isinstance(inner, ast.Attribute) else inner.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute | ast.Name)
    }


def _service(argument: ast.AST | None) -> str | None:
    """Return the service of `boto3.client("<service>", ...)` or `<service>_client(...)`."""
    match argument:
        case ast.Call(func=ast.Name(id=name)) if name.endswith("_client"):
            return name.removesuffix("_client")
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="boto3"), attr="client"),
            args=[ast.Constant(value=str(service)), *_],
        ):
            return service
        case _:
            return None


def _variable(argument: ast.AST) -> str | None:
    """Return the variable of the environment behind `settings.<VARIABLE>`."""
    match argument:
        case ast.Attribute(value=ast.Name(id="settings"), attr=variable):
            return variable
        case _:
            return None


def _methods(definition: ast.ClassDef) -> list[ast.FunctionDef]:
    return [node for node in definition.body if isinstance(node, ast.FunctionDef)]


def _constructor(definition: ast.ClassDef) -> ast.FunctionDef:
    (constructor,) = [method for method in _methods(definition) if method.name == "__init__"]
    return constructor


def _kept_arguments(definition: ast.ClassDef) -> dict[str, str]:
    """Return, per argument of the constructor, the attribute that it is kept as, if it is."""
    constructor = _constructor(definition)
    kept = {
        node.value.id: node.targets[0].attr
        for node in constructor.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Name)
        and isinstance(node.targets[0], ast.Attribute)
    }
    return {a.arg: kept.get(a.arg, a.arg) for a in constructor.args.args[1:]}


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _touched(
    method: ast.FunctionDef,
    methods: Mapping[str, ast.FunctionDef],
    resource_of: Mapping[str, str | None],
) -> set[str]:
    """Return the resources that a method names, or else those of the methods that call it."""
    named = {
        resource
        for node in ast.walk(method)
        if _is_attribute_of_self(node) and (resource := resource_of.get(node.attr))
    }
    if named:
        return named
    # They give it the resource as an argument. None of them is looked at twice.
    others = {name: other for name, other in methods.items() if other is not method}
    return {
        resource
        for caller in others.values()
        if any(_is_attribute_of_self(n) and n.attr == method.name for n in ast.walk(caller))
        for resource in _touched(caller, others, resource_of)
    }


def _is_attribute_of_self(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="self")):
            return True
        case _:
            return False


def _actions(method: ast.FunctionDef, service: str, module: ast.Module) -> Iterator[str]:
    for node in ast.walk(method):
        match node:
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="self"), attr="_client"), attr=name
            ) if name not in NO_OPERATION:
                yield from _actions_of(service, name, module)


def _actions_of(service: str, method: str, module: ast.Module) -> Iterator[str]:
    """Yield each action that IAM asks for when a method of the client is called."""
    operation = f"{service}:{_operations(service)[method]}"
    if operation in STATEMENTS_OF_PARTIQL:
        yield from (f"{service}:PartiQL{verb}" for verb in _verbs(module))
    else:
        yield ACTION_OF_OPERATION.get(operation, operation)


def _verbs(module: ast.Module) -> set[str]:
    texts = [
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return {verb[1].capitalize() for text in texts if (verb := PARTIQL_VERB.match(text))}


@functools.cache
def _operations(service: str) -> Mapping[str, str]:
    """Return the operation of the service's API behind each method of its client."""
    client = boto3.client(
        service,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    operations: Mapping[str, str] = client.meta.method_to_api_mapping
    return operations


def _referred(value: Any) -> str:
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
            return name
        case {"Fn::Sub": str(text)} if objects := OBJECTS_OF_BUCKET.fullmatch(text):
            return objects[1]
        case {"Fn::If": [_, there, _]}:
            # What is there under a condition is called and allowed under the same.
            return _referred(there)
        case _:
            raise AssertionError(f"not a resource of the stack: {value}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
