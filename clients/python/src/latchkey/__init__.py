"""Guards gRPC servers with Latchkey, the authentication service in which the latest login wins.

A guard takes the bearer token from the metadata ``authorization`` of every call, validates it with Latchkey, and gives
the handler the identity of the caller (:func:`identity`). A denied call gets the reason in a ``google.rpc.ErrorInfo``.
While Latchkey does not answer, calls get ``UNAVAILABLE``. Streams end when the session of their caller ends.

This package is for ``grpc``; :mod:`latchkey.aio` is the same for ``grpc.aio``. The generated code of Latchkey's
services is in ``latchkey.v1``.
"""

from latchkey import aio
from latchkey.channel import channel
from latchkey.client import Client
from latchkey.guard import Guard
from latchkey.identity import Identity, identity
from latchkey.rejected import Rejected

__all__ = ["Client", "Guard", "Identity", "Rejected", "aio", "channel", "identity"]
