"""`sam build` and `sam deploy` for the embedded stack: the tools that also deploy to AWS."""

import os
import platform
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from agent_credits_cli.errors import CommandError
from agent_credits_local import token_issuer
from agent_credits_local.checkout import Checkout, architecture
from agent_credits_local.emulator import HOST, require_local
from agent_credits_local.progress import step
from agent_credits_local.session import LOCAL_KEY, LOCAL_REGION
from agent_credits_local.stack_state import StateFolder

TOOL_SECONDS_MAX: Final = 600.0
LINES_SHOWN_ON_FAILURE: Final = 15


@dataclass(frozen=True)
class Deployment:
    folder: StateFolder
    checkout: Checkout
    endpoint_url: str
    stripe_api_base: str
    slack_api_base: str
    console: Console

    def __post_init__(self) -> None:
        require_local(self.stripe_api_base, "pays")
        require_local(self.slack_api_base, "posts its notices")

    def build(self) -> None:
        self._run(
            "sam build",
            [
                self.checkout.sam_folder / "sam",
                "build",
                *self._configuration(),
                f"--template-file={self.checkout.root / 'template.yaml'}",
                f"--build-dir={self.folder.build}",
                f"--cache-dir={self.folder.build_cache}",
            ],
        )
        if platform.libc_ver()[0] != "glibc":
            self._install_libraries_for_this_machine()

    def deploy(self, stack_name: str, *parameters: str) -> None:
        """Deploy the build with additional `parameters`, each as `Name=value`."""
        self._run(
            "sam deploy",
            [
                self.checkout.sam_folder / "sam",
                "deploy",
                # The configuration ends with the parameters.
                *self._configuration(),
                *parameters,
                f"--template-file={self.folder.build / 'template.yaml'}",
                f"--stack-name={stack_name}",
            ],
        )

    def _configuration(self) -> Sequence[str]:
        return (
            # SAM looks for its configuration beside the template, which a build writes elsewhere.
            f"--config-file={self.checkout.root / 'samconfig.toml'}",
            "--config-env=local",
            "--parameter-overrides",
            f"Runtime={self.checkout.runtime()}",
            f"Architecture={architecture()}",
            # A local stack is thrown away.
            "DeletionProtection=false",
            # No cap: the emulator cannot read one that a parameter gives, and then stops polling.
            "MaximumConcurrency=0",
            f"StripeApiBase={self.stripe_api_base}",
            "SlackNotices=true",
            f"SlackApiBase={self.slack_api_base}",
            "ApiEnabled=true",
            f"TokenIssuer={token_issuer.ISSUER}",
            f"TokenKeysUrl={token_issuer.keys_url(self.endpoint_url)}",
        )

    def _install_libraries_for_this_machine(self) -> None:
        """Replace the compiled packages of the layer and of functions that bring their own.

        SAM builds for the Linux of Lambda, and the emulator runs functions as plain processes of
        this machine, which is a different one.
        """
        # SAM leaves each list of requirements beside what it installed from it.
        for requirements in sorted(self.folder.build.rglob("requirements.txt")):
            self._run(
                "libraries for this machine",
                [
                    self.checkout.sam_folder / "python",
                    "-m",
                    "pip",
                    "install",
                    "--require-hashes",
                    "--upgrade",
                    f"--requirement={requirements}",
                    f"--target={requirements.parent}",
                ],
            )

    def _run(self, title: str, command: Sequence[str | Path]) -> None:
        log = self.folder.log_of(title)
        with step(title, self.console), log.open("wb") as output:
            try:
                status = subprocess.run(
                    command,
                    # A build keeps its downloads in its working folder and removes those that it
                    # does not need, which another build in that folder might.
                    cwd=self.folder.path,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=TOOL_SECONDS_MAX,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise CommandError(
                    f"{title} took longer than {TOOL_SECONDS_MAX:.0f} s; its output is in {log}"
                ) from error
        if status != 0:
            with log.open(errors="replace") as lines:
                for line in deque(lines, LINES_SHOWN_ON_FAILURE):
                    self.console.print(line, end="", markup=False, highlight=False)
            raise CommandError(f"{title} failed; its full output is in {log}")

    def _environment(self) -> Mapping[str, str]:
        """The caller's environment (proxies, package index), without its AWS account."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "SAM_", "PYTHON", "VIRTUAL_ENV"))
        }
        no_proxy = filter(None, (environment.get("NO_PROXY"), environment.get("no_proxy"), HOST))
        return environment | {
            "PATH": os.pathsep.join(
                (str(self.checkout.sam_folder), environment.get("PATH", os.defpath))
            ),
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": LOCAL_KEY,
            "AWS_SECRET_ACCESS_KEY": LOCAL_KEY,
            "AWS_DEFAULT_REGION": LOCAL_REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": ",".join(no_proxy),
            "SAM_CLI_TELEMETRY": "0",
            # Its default of several seconds between looks is meant for AWS.
            "SAM_CLI_POLL_DELAY": "0.1",
        }
