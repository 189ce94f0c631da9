"""The session for the embedded stack: dummy keys, and none of the caller's configuration."""

import os
from typing import Final

import boto3
import botocore.session
from botocore.config import Config

from agent_credits_cli.target import CLIENT_CONFIG

LOCAL_REGION: Final = "us-east-1"
LOCAL_KEY: Final = "test"

# A proxy would not find the loopback address of this machine.
LOCAL_CLIENT_CONFIG: Final = CLIENT_CONFIG.merge(Config(proxies={}))


def local_session() -> boto3.Session:
    """Return a session that ignores the caller's environment and configuration files."""
    unconfigured = botocore.session.Session()
    # The session's own setter takes None for "not set", and would then ask the environment.
    settings = unconfigured.get_component("config_store")
    settings.set_config_variable("profile", None)
    settings.set_config_variable("config_file", os.devnull)
    settings.set_config_variable("credentials_file", os.devnull)
    return boto3.Session(
        aws_access_key_id=LOCAL_KEY,
        aws_secret_access_key=LOCAL_KEY,
        region_name=LOCAL_REGION,
        botocore_session=unconfigured,
    )
