"""Code shared by the two samples."""

import os

from sample.v1 import greeter_pb2

import latchkey_auth


def answer(request):
    caller = latchkey_auth.identity()
    who = greeter_pb2.Identity(
        user_id=caller.user_id,
        username=caller.username,
        session_id=caller.session_id,
        slot=caller.slot,
        device=caller.device,
        roles=sorted(caller.roles),
        issued_at_unix=int(caller.issued_at.timestamp()),
        expires_at_unix=int(caller.expires_at.timestamp()),
    )
    return greeter_pb2.GreetResponse(text=f"{request.greeting}, {caller.username}", identity=who)


def requirements():
    names = {"required_role": "LATCHKEY_REQUIRED_ROLE", "required_slot": "LATCHKEY_REQUIRED_SLOT"}
    return {option: os.environ[name] for option, name in names.items() if os.environ.get(name)}
