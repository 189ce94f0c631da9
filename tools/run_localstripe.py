"""Runs localstripe, a stand-in for Stripe, on one port of this machine's loopback address.

As it comes, localstripe listens on every address, shares one file in /tmp with every other instance
on the machine, and refuses two fields that Stripe knows. It runs on its own in .tools/localstripe.
"""

import sys

from aiohttp import web
from localstripe import resources

HOST = "127.0.0.1"
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
    """Stand in for writing the file: what this process remembers ends with it."""


resources.Store.dump_to_disk = keep_in_memory
resources.PaymentIntent = PaymentIntent
resources.extra_apis[:] = [
    (method, path, PaymentIntent._api_confirm if path == CONFIRM_PATH else function)
    for method, path, function in resources.extra_apis
]

if __name__ == "__main__":
    # The server takes its routes from the resources when it is imported: as changed above.
    from localstripe.server import app

    web.run_app(app, host=HOST, port=int(sys.argv[1]))
