"""What the two samples have in common."""

import latchkey
from sample.v1 import greeter_pb2


def answer(request):
    caller = latchkey.identity()
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
