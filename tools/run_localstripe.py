"""Runs localstripe, a stand-in for Stripe, on one port of this machine's loopback address.

As it comes, localstripe listens on every address, shares one file in /tmp with every other instance
on the machine, and refuses two fields that Stripe knows. It runs on its own in .tools/localstripe.

`run_localstripe.py PORT FILE` loads what an earlier one saved to the file, and saves to it when
SIGTERM stops it.
"""

import sys
from pathlib import Path

from aiohttp import web
from localstripe import resources

HOST = "127.0.0.1"
# Its answers take milliseconds; a client that keeps its connection open must not hold it up.
SHUTDOWN_SECONDS = 1.0
CONFIRM_PATH = "/v1/payment_intents/{id}/confirm"


class PaymentIntent(resources.PaymentIntent):
    """A payment that also takes a description, and that can be confirmed off session."""

    def __init__(self, description=None, **fields):
        super().__init__(**fields)
        self.description = description

    @classmethod
    def _api_confirm(cls, id, off_session=None, **fields):  # noqa: A002, ARG003 - Stripe's names.
        # Nobody is on session at a stand-in anyway.
        return super()._api_confirm(id, **fields)


def keep_in_memory(_store):
    """Stand in for writing the file on every change."""


def load(file):
    # By localstripe's own pickle, as it loads its file in /tmp. This one is in the stack's folder.
    if file.exists():
        with file.open("rb") as saved:
            resources.store.update(resources.pickle.load(saved))


def save(file):
    # Replaced in one step, so that no stand-in ever loads half a file.
    draft = file.with_suffix(".new")
    with draft.open("wb") as saved:
        resources.pickle.dump(dict(resources.store), saved)
    draft.replace(file)


resources.Store.dump_to_disk = keep_in_memory
resources.PaymentIntent = PaymentIntent
resources.extra_apis[:] = [
    (method, path, PaymentIntent._api_confirm if path == CONFIRM_PATH else function)
    for method, path, function in resources.extra_apis
]

if __name__ == "__main__":
    # The server takes its routes from the resources when it is imported: as changed above.
    from localstripe.server import app

    file = Path(sys.argv[2])
    load(file)
    web.run_app(app, host=HOST, port=int(sys.argv[1]), shutdown_timeout=SHUTDOWN_SECONDS)
    save(file)
