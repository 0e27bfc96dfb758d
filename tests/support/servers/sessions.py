"""Sessions of `requests` as users make them, and secrets in what they ask."""

import json

import requests


def plain_session():
    return requests.Session()


class SpecialSession(requests.Session):
    """Is used as it is."""


def tells(request):
    """Say whether a request holds the secret."""
    text = request.path + json.dumps(request.headers)
    return "secret" in text or "dXNlcjpzZWNyZXQ=" in text  # user:secret
