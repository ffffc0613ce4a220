"""Tests of the app for Django. `tests/suite/process/django.rs` tests it with the users of a database."""

import asyncio

import django
import grpc
import pytest
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "latchkey_auth.django"],
    LATCHKEY={"ADDRESS": "127.0.0.1:1"},
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    ROOT_URLCONF=__name__,
)
django.setup()

from django.core.checks import run_checks
from django.http import JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from latchkey_auth import identity
from latchkey_auth.django import guarded
from latchkey_auth.django.rest_framework import LatchkeyAuthentication


def hello(request):
    try:
        caller = identity().username
    except LookupError:
        caller = None
    return JsonResponse([request.latchkey and request.latchkey.username, caller], safe=False)


async def ahello(request):
    return hello(request)


class View(APIView):
    authentication_classes = [LatchkeyAuthentication]
    permission_classes = [IsAuthenticated]

    def get(self, request):
        return Response([request.user.get_username(), request.auth.session_id])


urlpatterns = [
    path("hello", hello),
    path("ahello", ahello),
    path("open", hello),
    path("guarded", guarded(hello)),
    path("aguarded", guarded(ahello)),
    path("admin", guarded(role="admin")(hello)),
    path("aadmin", guarded(role="admin")(ahello)),
    path("rest", View.as_view()),
]


@pytest.fixture(params=[Client, AsyncClient])
def get(request, latchkey):
    async def get(path, token="t", middleware=False, cookie=None, authorization=None, **options):
        authorization = authorization or (token and f"Bearer {token}")
        setting = {"ADDRESS": latchkey.address, "OPEN_PATHS": ["/open"], **options}
        middlewares = ["latchkey_auth.django.LatchkeyMiddleware"] if middleware else []
        with override_settings(LATCHKEY=setting, MIDDLEWARE=middlewares):
            client = request.param()
            headers = {"authorization": authorization} if authorization else {}
            client.cookies.load(cookie or "")
            if request.param is AsyncClient:
                return await client.get(path, headers=headers)
            return await asyncio.to_thread(client.get, path, headers=headers)

    return get


@pytest.mark.parametrize("path", ["/hello", "/ahello"])
async def test_the_middleware_guards_all_views_but_the_open_ones(get, latchkey, path):
    assert (await get(path, middleware=True)).json() == ["anna", "anna"]
    assert (await get("/open", None, middleware=True)).json() == [None, None]
    answer = await get(path, "stale", middleware=True)
    assert (answer.status_code, answer.json()["reason"], answer.json()["by_device"]) == (401, "REPLACED", "Zoë")
    assert answer.headers["x-latchkey-reason"] == "REPLACED"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert (await get("/nowhere", None, middleware=True)).status_code == 401
    assert (await get(path, middleware=True, REQUIRED_ROLE="admin")).json()["reason"] == "ROLE_REQUIRED"
    twice = await get(path, middleware=True, authorization="Bearer t,Bearer t")
    assert (twice.status_code, twice.json()["reason"]) == (401, "MALFORMED")
    latchkey.fail(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    answer = await get(path, middleware=True)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_single_views_can_be_guarded_and_require_roles(get):
    for url in "/guarded", "/aguarded":
        assert (await get(url)).json() == ["anna", "anna"]
        assert (await get(url, None)).json()["reason"] == "TOKEN_REQUIRED"
        assert (await get(url, middleware=True)).json() == ["anna", "anna"]
    for url in "/admin", "/aadmin":
        answer = await get(url)
        assert (answer.status_code, answer.json()["reason"]) == (403, "ROLE_REQUIRED")


async def test_the_class_for_rest_framework_answers_like_the_guards(get, latchkey):
    assert (await get("/rest")).json() == ["anna", "s1"]
    assert (await get("/rest", None)).status_code == 401
    # Credentials of another kind are for the next class.
    other = await get("/rest", authorization="Basic eA==")
    assert other.json() == {"detail": "Authentication credentials were not provided."}
    answer = await get("/rest", "stale")
    assert (answer.status_code, answer.json()) == (
        401,
        {
            "reason": "REPLACED",
            "message": "A newer login on Zoë.",
            "terminal": True,
            "at": "2026-07-29T16:34:56.100000Z",
            "by_device": "Zoë",
        },
    )
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert (await get("/rest", "disabled")).status_code == 403
    assert (await get("/rest", None, cookie="x=1; t=live", COOKIE="t")).json() == ["anna", "s1"]
    assert (await get("/rest", None, cookie="t=stale", COOKIE="t")).json()["reason"] == "REPLACED"
    latchkey.fail(grpc.StatusCode.INTERNAL)
    answer = await get("/rest")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["reason"] == "STORE_UNAVAILABLE"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (None, "LATCHKEY is missing"),
        ({}, '"ADDRESS" is missing'),
        ({"ADDRESS": "a", "OPENPATHS": []}, "'OPENPATHS' is no key"),
        ({"ADDRESS": "a", "OPEN_PATHS": "/open"}, "open_paths is a list"),
    ],
)
def test_a_wrong_setting_is_told_when_django_starts(setting, text):
    with override_settings(LATCHKEY=setting):
        assert [text in error.msg for error in run_checks() if error.id == "latchkey_auth.E001"] == [True]


def test_a_right_setting_is_accepted():
    assert not run_checks()
