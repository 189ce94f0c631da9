"""Each table is in the class that costs less for what it holds."""

import pytest

from tests.template import Template, load_template, translate

INFREQUENT = "STANDARD_INFREQUENT_ACCESS"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Template:
    """Return the properties of every table as CloudFormation gets them."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return {
        name: resource["Properties"]
        for name, resource in translate(load_template())["Resources"].items()
        if resource["Type"] == "AWS::DynamoDB::Table"
    }


def test_only_what_is_kept_for_years_is_in_the_infrequent_access_class(tables: Template) -> None:
    # Accounts are rewritten by each commit; the others are soon forgotten.
    classes = {name: properties.get("TableClass") for name, properties in tables.items()}

    assert classes == {
        "AccountsTable": None,
        "LedgerTable": INFREQUENT,
        "NoticesTable": None,
        "SlackPostsTable": None,
    }
