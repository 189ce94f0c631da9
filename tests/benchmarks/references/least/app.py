"""The least that a function on boto3 and pydantic starts with: its settings, and one client."""

import os

import boto3
from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    ACCOUNTS_TABLE: str
    LEDGER_TABLE: str


settings = Settings.model_validate(dict(os.environ))
client = boto3.client("dynamodb")
