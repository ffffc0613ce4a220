"""A peer of `make peers`: Validate with Django REST Framework, simplejwt and Redis, as the recipe does it."""

from django.urls import path
from rest_framework.response import Response
from rest_framework.views import APIView


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
