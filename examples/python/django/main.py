"""A Django service, in one file, for users who are logged in to Latchkey.

Needs `pip install 'latchkey-auth[django]' uvicorn`. It works under WSGI, too.
"""

import os
import socket

import django
import uvicorn
from django.conf import settings

# guarded from here
LATCHKEY = {
    "ADDRESS": os.environ.get("LATCHKEY_ADDRESS", "127.0.0.1:50051"),
    "CALLER_KEY": os.environ.get("LATCHKEY_CALLER_KEY"),
    "OPEN_PATHS": ["/begun"],
    "REQUIRED_ROLE": os.environ.get("LATCHKEY_REQUIRED_ROLE") or None,
    "REQUIRED_SLOT": os.environ.get("LATCHKEY_REQUIRED_SLOT") or None,
}
INSTALLED_APPS = ["latchkey_auth.django"]
MIDDLEWARE = ["latchkey_auth.django.LatchkeyMiddleware"]
# to here
settings.configure(
    LATCHKEY=LATCHKEY, INSTALLED_APPS=INSTALLED_APPS, MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]
)
django.setup()

from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path

begun = 0


def greet(request):
    global begun
    begun += 1
    names = ("user_id", "username", "session_id", "slot", "device")
    identity = {name: getattr(request.latchkey, name) for name in names}
    identity["roles"] = sorted(request.latchkey.roles)
    identity["issued_at_unix"] = int(request.latchkey.issued_at.timestamp())
    identity["expires_at_unix"] = int(request.latchkey.expires_at.timestamp())
    return JsonResponse({"text": f"Hello, {request.latchkey.username}", "identity": identity})


def count(request):
    return JsonResponse({"count": begun})


urlpatterns = [path("greet", greet), path("begun", count)]

if __name__ == "__main__":
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:0").rpartition(":")
    listener = socket.create_server((host, int(port)))
    print(f"listens on {host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(get_asgi_application(), log_level="warning")).run(sockets=[listener])
