"""The guard for Django, as an installable app.

``INSTALLED_APPS`` gets ``"latchkey_auth.django"``, and the setting ``LATCHKEY`` the address and the options. Then
``"latchkey_auth.django.LatchkeyMiddleware"`` in ``MIDDLEWARE`` guards all views, :func:`guarded` guards single ones, and
``latchkey_auth.django.rest_framework.LatchkeyAuthentication`` is for Django REST framework.
"""

from latchkey_auth.django.guard import LatchkeyMiddleware, guarded

__all__ = ["LatchkeyMiddleware", "guarded"]
