"""Hints in messages, as commands that work exactly as they are printed.

The program is rarely on the PATH, and the options before a command select the stack. A hint that
leaves out either would not work.
"""

import os
import re
import shlex
import sys
import sysconfig
from pathlib import Path
from typing import Final

import typer

_NAMED: Final = re.compile(r"`(agent-credits(?:-demo)? [^`]+)`")


def as_typed(context: typer.Context, text: str) -> str:
    """Return the text with each of our commands, in back quotes, as it works here."""
    return _NAMED.sub(lambda named: f"`{typed(context, named[1])}`", text)


def typed(context: typer.Context, command: str) -> str:
    """Return a command with the path of its program and the options of the current command."""
    program, _, arguments = command.partition(" ")
    return f"{shlex.join([_path_of(program), *_options_in_front(context)])} {arguments}"


def _path_of(program: str) -> str:
    """Return the program's path as this one's was typed; the programs are in one folder."""
    folder, slash, _ = sys.argv[0].rpartition(os.sep)
    for path in (f"{folder}{slash}{program}", f"{sysconfig.get_path('scripts')}{os.sep}{program}"):
        if Path(path).is_file():
            return path
    return program


def _options_in_front(context: typer.Context) -> list[str]:
    """Return the options before the command; the environment also holds for the next command."""
    main = context.find_root()
    options: list[str] = []
    for parameter in main.command.params:
        name = parameter.name or ""
        source = main.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            value = main.params[name]
            options += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return options
