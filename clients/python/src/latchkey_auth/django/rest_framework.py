"""The authentication class for Django REST framework."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.request import Request

from latchkey_auth import bearer
from latchkey_auth.denial import Denial
from latchkey_auth.django import conf
from latchkey_auth.django.guard import credentials
from latchkey_auth.identity import Identity


class Denied(APIException):
    """The token was denied, or there was no verdict."""

    def __init__(self, why: Denial) -> None:
        # Without the conversion of `APIException`, which makes texts of all values.
        self.detail = why.fields
        self.status_code = why.http_status
        self._denial = why
        if why.challenge is not None:
            self.auth_header = why.challenge
        if why.is_outage:
            self.wait = 1

    def get_codes(self) -> str:
        """Returns the reason."""
        return self._denial.reason

    def get_full_details(self) -> dict[str, str]:
        """Returns the message and the reason."""
        return {"message": self._denial.message, "code": self._denial.reason}


class LatchkeyUser:
    """The user of a session, without a row in Django's table. It has no permissions of Django."""

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    def __init__(self, identity: Identity) -> None:
        self.pk = self.id = identity.user_id
        self.username = identity.username

    def __str__(self) -> str:
        return self.username

    def get_username(self) -> str:
        """Returns the username."""
        return self.username

    def has_perm(self, _perm: str, _obj: Any = None) -> bool:
        """Returns ``False``."""
        return False

    def has_perms(self, _perms: Any, _obj: Any = None) -> bool:
        """Returns ``False``."""
        return False

    def has_module_perms(self, _app: str) -> bool:
        """Returns ``False``."""
        return False


class LatchkeyAuthentication(BaseAuthentication):
    """Accepts a token of Latchkey, in ``authorization`` or in the cookie of the setting ``COOKIE``.

    ``request.auth`` is the identity of the caller. ``request.user`` is the user of Django whose ``USER_FIELD`` is the id
    (or, if it is the field of usernames, the username) of the session, or without that setting a :class:`LatchkeyUser`. A
    request without a token, or with credentials of another kind, is left to the next class.
    """

    def authenticate(self, request: Request) -> tuple[Any, Identity] | None:
        """Returns the user and the identity, or ``None`` without a token."""
        checker = conf.checker()
        what, authorization, cookies = credentials(request._request)
        name = checker.rules.cookie
        if all(map(bearer.is_empty, authorization)):
            if name is None or not bearer.cookies(cookies, name):
                return None
        elif not any(value.lower().startswith("bearer ") for value in authorization):
            return None
        try:
            identity = checker.check(what, authorization, cookies)
        except Denial as why:
            raise Denied(why) from None
        return self.user(identity), identity

    def authenticate_header(self, request: Request) -> str:
        """Returns the challenge for a request without a token."""
        return 'Bearer realm="latchkey"'

    def user(self, identity: Identity) -> Any:
        """Returns the user of a session."""
        field = conf.user_field()
        if field is None:
            return LatchkeyUser(identity)
        model = get_user_model()
        value = identity.username if field == model.USERNAME_FIELD else identity.user_id
        try:
            user = model._default_manager.filter(**{field: value}).first()
        except (ValueError, ValidationError):
            # Such as a text as a number.
            user = None
        if user is None or not user.is_active:
            raise AuthenticationFailed("There is no such user.")
        return user
