"""Prints which interpreter the tools are built on, or says in one line why it will not do.

This file must run, and explain itself, on interpreters that are too old for everything else here.
"""

import importlib
import os
import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Agent Credits needs Python 3.11 or newer, and %s is %s; choose another with"
        " `make PYTHON=/path/to/python3`" % (sys.executable, sys.version.split()[0])
    )

for module in ("venv", "ensurepip"):
    try:
        importlib.import_module(module)
    except ImportError:
        sys.exit(
            "%s has no module `%s`; install it (Debian, Ubuntu: `apt-get install python3-venv`)"
            " or choose another with `make PYTHON=/path/to/python3`" % (sys.executable, module)
        )

# The folder belongs to the answer because the scripts of a venv do not survive a move.
sys.stdout.write("\n".join((sys.executable, sys.version, os.getcwd(), "")))
