"""A folder that a real server serves, and files in it that change."""

import contextlib
import shutil
import time

import requests
from recipes import RECIPES, running
from waiting import PATIENCE, wait_until

WITHOUT_VALIDATORS = {"lighttpd as installed"}
DEADLINE, MARGIN = 10, 10


class Served:
    """A folder on a running server."""

    def __init__(self, name, folder, url, certificate):
        self.name, self.folder, self.url, self.certificate = name, folder, url, certificate
        self.tells_versions = name not in WITHOUT_VALIDATORS
        self.session = requests.Session()
        self.session.verify = certificate or True

    def options(self, **options):
        own = {"cache_size": 0, "deadline": DEADLINE, "session": self.session}
        return {"stream": True, "stream_options": own | options}

    def copy(self, path, name):
        """Serve a copy of a file, as old as the file."""
        shutil.copy2(path, self.folder / name)
        return self.url + name

    def change(self, name, change):
        """Change a file, and wait until the server tells of that; some remember for a second."""
        path, before = self.folder / name, validators(self.get(name))
        change(path)

        def told():
            try:
                answer = self.get(name)
            except requests.RequestException:  # shorter than the server still believes
                return False
            return answer.content == path.read_bytes() and (
                validators(answer) != before or not self.tells_versions
            )

        wait_until(told)

    def get(self, name):
        """Get a whole file."""
        headers, verify = {"Accept-Encoding": "identity"}, self.session.verify
        return self.session.get(self.url + name, headers=headers, verify=verify, timeout=PATIENCE)


def validators(answer):
    return [answer.headers.get(name) for name in ("ETag", "Last-Modified")]


@contextlib.contextmanager
def serving(name, folder):
    """Run one of the servers of the documents."""
    with running(RECIPES[name], folder) as (url, certificate):
        served = Served(name, folder, url, certificate)
        with served.session:
            yield served


@contextlib.contextmanager
def timely():
    """Hold a call against its deadline."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < DEADLINE + MARGIN
