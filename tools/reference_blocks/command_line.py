"""Every command of `agent-credits` with its options, as the program itself describes them."""

import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from agent_credits_cli.main import app
from tools.blocks import table

# Typer's own copy of click, which has no public types.
Command = Any
Parameter = Any


def commands() -> str:
    """Return a section for each command, in the order in which `--help` lists them."""
    program = typer.main.get_command(app)
    context = typer.Context(program)
    return "\n".join(
        _section(path, command, context) for path, command in _commands("", program, context)
    )


def options_for_all() -> str:
    """Return the options that stand in front of every command."""
    program = typer.main.get_command(app)
    return _parameters(program, typer.Context(program))


def _commands(prefix: str, group: Command, context: Any) -> Iterator[tuple[str, Command]]:
    # By the methods of a group, which may load its commands only when they are asked for.
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        path = f"{prefix}{name}"
        if hasattr(command, "list_commands"):
            if command.invoke_without_command:
                yield path, command
            yield from _commands(f"{path} ", command, context)
        elif not command.hidden:
            yield path, command


def _section(path: str, command: Command, context: Any) -> str:
    usage = " ".join(("agent-credits", path, *command.collect_usage_pieces(context)))
    return f"""
## `{path}`

```text
{usage}
```

{_escaped(_wrapped(command.help))}

{_parameters(command, context)}
"""


def _wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(paragraph, 100) for paragraph in text.split("\n\n"))


def _parameters(command: Command, context: Any) -> str:
    # Those of `get_params` have the names of their values; every command has the inherited ones.
    parameters = [p for p in command.get_params(context) if p in command.params]

    return table(
        ("argument or option", "default", "meaning"),
        [
            (_names(parameter), _default(parameter), _escaped(parameter.help or ""))
            for parameter in parameters
            if not parameter.hidden
        ],
    )


def _escaped(text: str) -> str:
    """Return help as Markdown: `user:<id>` is no tag, and a bar ends no cell."""
    return text.replace("<", "&lt;").replace("|", "&#124;")


def _names(parameter: Parameter) -> str:
    is_argument = parameter.param_type_name == "argument"
    value = "" if is_argument or parameter.is_flag else f" {parameter.metavar}"
    named = [parameter.metavar] if is_argument else parameter.opts
    names = ", ".join(f"`{name}{value}`" for name in named)
    variable = f", or the variable `{parameter.envvar}`" if parameter.envvar else ""
    return f"{names}{_bounds(parameter)}{variable}"


def _bounds(parameter: Parameter) -> str:
    match parameter.min, parameter.max:
        case None, None:
            return ""
        case low, None:
            return f": {low} or more"
        case low, high:
            return f": {low} to {high:,}"


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if getattr(parameter, "is_flag", False):
        return "on" if parameter.default else "off"
    return "none" if parameter.default is None else f"`{parameter.default}`"
