"""Where redirects lead, and which secrets go along."""

import contextlib
from dataclasses import replace

import pytest
import requests
from remote_content import AT, BLOCK, CONTENT, opened, wave
from scripted_server import Ok, Redirect, Reply, ScriptedServer, Status
from sessions import SpecialSession, plain_session, tells

import vfs
from vfs.options import Options
from vfs.transport.http import HttpSource


@contextlib.contextmanager
def redirected(*script, content=b"", to, **options):
    """Give a server, and a file there that another one has, after the script at least."""
    server = ScriptedServer(content, script, then=Redirect(to.url))
    with server as origin, opened(origin, **options) as file:
        yield origin, file


def slowly(answer):
    """Give an answer a moment later, in which others would ask too."""
    return lambda server, request: replace(answer(server, request), delay=0.2)


def test_a_redirect_is_followed_and_remembered():
    with ScriptedServer(CONTENT) as target, redirected(to=target) as (origin, file):
        wave(file)
        assert len(origin.requests) == 1
        assert len(target.requests) == 1 + 8


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_relative_redirect_is_followed(status):
    with ScriptedServer(CONTENT, [Redirect("other?a=1", status)]) as server:
        with opened(server) as file:
            assert file.read(AT, 4096) == BLOCK
        assert [request.path for request in server.requests] == [
            "/file.magnitude",
            "/other?a=1",
            "/other?a=1",
        ]


def test_redirects_in_a_circle_end():
    with ScriptedServer(CONTENT, then=Redirect("/file.magnitude")) as server:
        with pytest.raises(vfs.RedirectError, match="loop"):
            opened(server)
        assert len(server.requests) == 10


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/f", "file:///etc/passwd", "http://[::1/", "http://127.0.0.1:99999/"],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(location):
    error = pytest.raises(vfs.RedirectError, match="redirects to")
    with ScriptedServer(CONTENT, then=Redirect(location)) as server, error:
        opened(server)


def test_the_body_of_a_redirect_is_not_swallowed():
    def redirect(server, request):
        return Reply(302, {"Location": "/other"}, bytes(64 << 20))

    with ScriptedServer(CONTENT, [redirect]) as server:
        opened(server).close()
    assert server.requests[0].body_bytes_sent < 16 << 20


@pytest.mark.parametrize("url", ["https://secure.test/file", "HTTPS://secure.test/file"])
def test_a_redirect_never_leaves_https(url):
    transport = HttpSource(url, Options())
    with pytest.raises(vfs.RedirectError, match="leaves https for http"):
        transport._target._redirected(url, "http://secure.test/file")
    with pytest.raises(vfs.RedirectError):
        transport._target._redirected(url, "HTTP://secure.test/file")
    assert transport._target._redirected(url, "/other").lower() == "https://secure.test/other"
    assert transport._target._redirected("http://a/b", url).lower() == url.lower()


@pytest.mark.parametrize("expired", [400, 401, 403, 404, 410])
def test_an_expired_target_is_looked_up_again_from_the_original_url(expired):
    script = [Ok(), Status(expired)]
    with ScriptedServer(CONTENT, script) as target, redirected(to=target) as (origin, file):
        assert file.read(AT, 4096) == BLOCK
        assert (len(origin.requests), len(target.requests)) == (2, 3)
        assert file.stats.retries == 0


def test_a_target_that_stays_expired_is_looked_up_only_once():
    with ScriptedServer(CONTENT, [Ok()], then=Status(403)) as target:
        with redirected(to=target) as (origin, file):
            with pytest.raises(vfs.AccessError):
                file.read(AT, 4096)
            assert (len(origin.requests), len(target.requests)) == (2, 3)
        with ScriptedServer(b"", then=Redirect(target.url)) as origin:
            with pytest.raises(vfs.AccessError):
                opened(origin)
            assert len(origin.requests) == 1


@pytest.mark.parametrize("expired", [400, 403])
def test_a_wave_looks_an_expired_target_up_once(expired):
    with ScriptedServer(CONTENT) as fresh, ScriptedServer(CONTENT, [Ok()]) as old:
        old.then = Status(expired)
        script = [Redirect(old.url), slowly(Redirect(fresh.url))]
        with redirected(*script, to=fresh) as (origin, file):
            wave(file)
            refused = len(old.requests)
            assert (len(origin.requests), len(fresh.requests)) == (2, 8)
            assert 2 <= refused <= 9  # those that were under way then
            wave(file, 3)
            assert file.stats.retries == 0
            file.read_past_cache([(AT + 20_000 * n, AT + 20_000 * n + 9) for n in range(8)])
            assert (len(origin.requests), len(fresh.requests)) == (2, 16)
            assert len(old.requests) == refused


def test_a_wave_looks_a_target_that_is_gone_up_once():
    with ScriptedServer(CONTENT) as fresh, contextlib.ExitStack() as stack:
        old = stack.enter_context(ScriptedServer(CONTENT))
        script = [Redirect(old.url), slowly(Redirect(fresh.url))]
        origin = ScriptedServer(b"", script, then=Redirect(fresh.url))
        with origin, opened(origin, connections=8) as file:
            stack.close()
            wave(file)
            assert (len(origin.requests), len(fresh.requests)) == (2, 8)


def test_a_wave_whose_target_stays_expired_looks_it_up_once_and_fails():
    target = ScriptedServer(CONTENT, [Ok()], then=Status(400))
    with target, redirected(to=target) as (origin, file):
        with pytest.raises(vfs.StatusError, match="400"):
            wave(file)
        assert len(origin.requests) == 2


def test_a_400_of_the_file_itself_is_told_at_once():
    with ScriptedServer(CONTENT, then=Status(400)) as server:
        with pytest.raises(vfs.StatusError, match="400"):
            opened(server)
        assert len(server.requests) == 1


# Secrets


class OtherClient:
    """Knows no more of `requests` than its method get."""

    def __init__(self):
        self.headers = {"X-Key": "secret", "User-Agent": "other"}

    def get(self, url, *, headers, **options):
        merged = {name: text for name, text in (self.headers | headers).items() if text is not None}
        return requests.get(url, headers=merged, **options)


def by_headers(session):
    session.headers["X-Key"] = "secret"


def by_authentication(session):
    session.auth = ("user", "secret")


def by_cookie(session):
    session.cookies.set("key", "secret")


def by_parameters(session):
    session.params = {"key": "secret"}


def ways_of_authentication():
    for make in (plain_session, SpecialSession):
        for give in (by_headers, by_authentication, by_cookie, by_parameters):
            session = make()
            give(session)
            yield pytest.param({"session": session}, id=f"{make.__name__}-{give.__name__}")
    yield pytest.param({"session": OtherClient()}, id="other client")
    yield pytest.param({"headers": {"Authorization": "Bearer secret"}}, id="option headers")


@pytest.mark.parametrize("options", list(ways_of_authentication()))
def test_credentials_reach_the_own_origin_and_no_other(options):
    with ScriptedServer(CONTENT) as target:
        with redirected(Ok(), content=CONTENT, to=target, **options) as (origin, file):
            wave(file, 2)
            wave(file, 6)
        assert all(tells(request) for request in origin.requests)
        assert target.requests
        assert not any(tells(request) for request in target.requests)
        assert {request.headers["accept-encoding"] for request in target.requests} == {"identity"}


def test_a_password_in_the_url_stays_with_its_host():
    with (
        ScriptedServer(CONTENT) as target,
        ScriptedServer(b"", then=Redirect(target.url)) as origin,
    ):
        with opened(origin.url.replace("://", "://user:secret@")) as file:
            wave(file)
        assert all(tells(request) for request in origin.requests)
        assert not any(tells(request) for request in target.requests)


def test_a_password_file_is_for_the_own_host_alone(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ScriptedServer(CONTENT) as target, redirected(to=target) as (origin, file):
        wave(file)
        assert all(tells(request) for request in origin.requests)
        assert not any(tells(request) for request in target.requests)


@pytest.mark.parametrize("by_session", [False, True])
@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_a_password_file_does_not_replace_a_given_authorization(
    tmp_path, monkeypatch, by_session, name
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    headers = {name: "Bearer secret"}
    options = {"headers": headers}
    if by_session:
        options = {"session": plain_session()}
        options["session"].headers.update(headers)
    with ScriptedServer(CONTENT) as server:
        with opened(server, **options) as file:
            wave(file)
        given = {request.headers["authorization"] for request in server.requests}
        assert given == {"Bearer secret"}


def test_the_authentication_of_a_session_counts_more_than_a_password_file(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session = plain_session()
    session.auth = ("user", "secret")
    with ScriptedServer(CONTENT) as server, opened(server, session=session):
        assert all(tells(request) for request in server.requests)
