"""Settings of the peer: everything that Django does not need for this view is switched off."""

import base64
import os
from datetime import timedelta

SECRET_KEY = "not used"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "recipe"
USE_TZ = True
# The authentication of simplejwt imports the model of users, which it does not read.
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["PEER_REDIS_URL"],
    }
}
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["authentication.LatestLogin"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "UNAUTHENTICATED_USER": None,
}
SIMPLE_JWT = {
    "ALGORITHM": os.environ["PEER_ALGORITHM"],
    "SIGNING_KEY": base64.b64decode(os.environ["PEER_KEY"]),
    "AUDIENCE": "latchkey",
    "ISSUER": "latchkey",
    "ACCESS_TOKEN_LIFETIME": timedelta(days=1),
    "USER_ID_CLAIM": "sub",
    # Tokens of the other peers have no such claim.
    "TOKEN_TYPE_CLAIM": None,
}
