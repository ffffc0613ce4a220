"""The recipe: the newest token of a user is in Redis under the user's id, and each use slides its time to live."""

from django_redis import get_redis_connection
from rest_framework.exceptions import AuthenticationFailed
from rest_framework_simplejwt.authentication import JWTStatelessUserAuthentication

IDLE_SECONDS = 3600


class LatestLogin(JWTStatelessUserAuthentication):
    """Accepts a token with a valid signature if it is the newest one of its user."""

    def authenticate(self, request):
        authenticated = super().authenticate(request)
        if authenticated is None:
            return None
        user, token = authenticated
        newest = get_redis_connection("default").getex(f"peer:{user.id}", ex=IDLE_SECONDS)
        if newest is None:
            raise AuthenticationFailed("the session has expired")
        if newest != token.token:
            raise AuthenticationFailed("a newer login replaced this session")
        return user, token
