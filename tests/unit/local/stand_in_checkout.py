"""A checkout without tools, for failures before or while a tool is started."""

import sys
from pathlib import Path

from agent_credits_local.checkout import Checkout


def checkout_of_stand_ins(root: Path) -> Checkout:
    """Make a checkout whose tools are stand-ins: its `sam` reports its environment, then fails."""
    checkout = Checkout(root)
    for python in (checkout.ministack_python, checkout.localstripe_python):
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    checkout.sam_folder.mkdir(parents=True)
    sam = checkout.sam_folder / "sam"
    sam.write_text('#!/bin/sh\nenv\necho "folder=$(pwd)"\necho the reason it failed\nexit 1\n')
    sam.chmod(0o755)
    (checkout.root / "template.yaml").write_text("Resources: {}\n")
    return checkout
