"""Guards gRPC servers with Latchkey, the authentication service in which the latest login wins.

A guard takes the bearer token from the metadata ``authorization`` of every call, asks Latchkey whether its session is
live, and tells the handler whose it is (:func:`identity`). Whoever is rejected is told why, in a
``google.rpc.ErrorInfo``. Where Latchkey does not answer, nobody gets in: ``UNAVAILABLE``. Streams end when the session
of their caller does.

Here is what goes with ``grpc``; :mod:`latchkey.aio` has the same for ``grpc.aio``. The generated code of Latchkey's
own services is in ``latchkey.v1``.
"""

from latchkey import aio
from latchkey.channel import channel
from latchkey.client import Client
from latchkey.guard import Guard
from latchkey.identity import Identity, identity
from latchkey.rejected import Rejected

__all__ = ["Client", "Guard", "Identity", "Rejected", "aio", "channel", "identity"]
