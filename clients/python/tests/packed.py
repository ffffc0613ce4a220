"""Tests the wheel as its users get it: in an environment of its own, outside of the repository.

packed.py VERSION
"""

import asyncio
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import latchkey_auth
from latchkey_auth.wsgi import LatchkeyMiddleware

version = sys.argv[1]
package = Path(latchkey_auth.__file__).parent
assert package.is_relative_to(sys.prefix), f"not the wheel: {package}"
assert importlib.metadata.version("latchkey-auth") == version, f"the server has the version {version}"
top_level = {file.parts[0] for file in importlib.metadata.files("latchkey-auth")}
assert {name for name in top_level if not name.endswith(".dist-info")} == {"latchkey_auth"}, top_level
assert importlib.util.find_spec("latchkey") is None
for file in "py.typed", "service_config.json", "v1/auth_pb2.pyi", "django/apps.py":
    assert (package / file).is_file(), file

# Nobody listens at this port.
statuses = []
app = LatchkeyMiddleware(None, "127.0.0.1:1", timeout=0.2)
environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_AUTHORIZATION": "Bearer t"}
(body,) = app(environ, lambda status, headers: statuses.append((status, dict(headers)["retry-after"])))
assert statuses == [("503 Service Unavailable", "1")], statuses
assert json.loads(body)["reason"] == "STORE_UNAVAILABLE", body

client = latchkey_auth.aio.Client("127.0.0.1:1", timeout=0.2)
try:
    asyncio.run(client.validate("t"))
except latchkey_auth.Unavailable:
    pass
else:
    raise AssertionError("nobody listens, and somebody answers")
