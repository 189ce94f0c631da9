"""What all commands have in common: `-h`, `--version`, and how their help names values.

Values have upper-case names, as in `FILE` and `--limit N`, and a flag has none. Typer's own help
shows the types of Python there, and braces around what is required.
"""

import importlib.metadata
import inspect
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(f"agent-credits {importlib.metadata.version('agent-credits')}")
        raise typer.Exit


# An option of the main command, which every other command takes too.
Version = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Show the version and exit.",
        is_eager=True,
        expose_value=False,
        callback=_print_version,
    ),
]


class Command(TyperCommand):
    """A command that keeps these conventions."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = in_paragraphs(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        return by_convention(ctx, super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        names = [p.metavar if p.required else f"[{p.metavar}]" for p in arguments]
        return ["[OPTIONS]", *names]


def in_paragraphs(help_text: str | None) -> str:
    """Return a help text without the line breaks of the source, which Typer keeps."""
    paragraphs = inspect.cleandoc(help_text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def by_convention(context: Any, parameters: list[Any]) -> list[Any]:
    """Return a command's parameters with the names of their values, and with `--version`."""
    main = context.find_root().command
    inherited = [
        parameter
        for parameter in main.params
        if "--version" in parameter.opts and context.command is not main
    ]
    for parameter in (*parameters, *inherited):
        if parameter.metavar is None:
            parameter.metavar = _metavar(parameter)
        if parameter.param_type_name == "argument":
            # Typer would print the type of Python beside the name.
            parameter.display_type_rich = _no_type
    # The last option is the one for help.
    return [*parameters[:-1], *inherited, *parameters[-1:]]


def _no_type(ctx: Any) -> str:  # noqa: ARG001 - Typer passes it by this name.
    return ""


def _metavar(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    is_option = parameter.param_type_name == "option"
    name: str = parameter.opts[0].lstrip("-") if is_option else parameter.name
    return name.upper().replace("_", "-")
