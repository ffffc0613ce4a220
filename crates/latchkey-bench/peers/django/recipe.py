"""A peer of `make peers`: the recipe for "the latest login wins" with Django REST Framework, simplejwt and Redis.

The newest token of a user is in the cache under the user's id, and each use slides its time to live.
"""

from django.core.wsgi import get_wsgi_application
from django.urls import path
from django_redis import get_redis_connection
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.response import Response
from rest_framework.views import APIView
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


class Validate(APIView):
    def get(self, request):
        token = request.auth
        return Response(
            {
                "session_id": token["jti"],
                "user_id": request.user.id,
                "username": token["name"],
                "slot": token["slot"],
                "device": token["device"],
                "roles": token["roles"],
                "issued_at": token["iat"],
                "expires_at": token["exp"],
            }
        )


urlpatterns = [path("validate", Validate.as_view())]
application = get_wsgi_application()
