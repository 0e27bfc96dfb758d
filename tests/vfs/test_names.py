"""Names of files in the cache: what tells two URLs apart, and what does not."""

import pytest
from scripted_server import ScriptedServer

import vfs
from vfs.identity import lasting_query, url_name

URL = "https://host.example/a/file.magnitude"

S3 = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA{0}%2F20240101%2Fus-east-1%2Fs3%2F"
    "aws4_request&X-Amz-Date=2024010{0}T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&"
    "X-Amz-Security-Token=token{0}&X-Amz-Signature=abc{0}"
)
S3_OLD = "AWSAccessKeyId=AKIA{0}&Signature=vjbyPxybdZaNmGa%2ByT272YEAiv{0}%3D&Expires=117588926{0}"
GOOGLE = (
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=me{0}%40project.iam.gserviceaccount.com"
    "%2F20240101%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date=2024010{0}T000000Z&"
    "X-Goog-Expires=900&X-Goog-SignedHeaders=host&X-Goog-Signature=abc{0}"
)
GOOGLE_OLD = "GoogleAccessId=me{0}%40p.iam.gserviceaccount.com&Expires=13882{0}&Signature=a{0}"
AZURE = "sv=2022-11-02&ss=b&srt=o&sp=r&st=2024-01-0{0}&se=2024-02-0{0}&spr=https&sig=a{0}%3D"
AZURE_USER = (
    "sp=r&st=2024-01-0{0}T00:00:00Z&se=2024-01-0{0}T08:00:00Z&skoid=1{0}&sktid=2{0}&"
    "skt=2024-01-0{0}T00:00:00Z&ske=2024-01-0{0}T08:00:00Z&sks=b&skv=2022-11-02&sip=10.0.0.{0}&"
    "spr=https&sv=2022-11-02&sr=b&sig=a{0}%3D"
)
CLOUDFRONT = "Expires=170000000{0}&Signature=abc{0}~&Key-Pair-Id=K{0}"
CLOUDFRONT_POLICY = "Policy=eyJ{0}_&Signature=abc{0}&Key-Pair-Id=K{0}"
HUGGING_FACE = "Expires=170000000{0}&Policy=eyJ{0}&Signature=abc{0}&Key-Pair-Id=K{0}"

SIGNED = {
    "s3": S3,
    "s3 version 2": S3_OLD,
    "google": GOOGLE,
    "google version 2": GOOGLE_OLD,
    "azure": AZURE,
    "azure, user delegation": AZURE_USER,
    "cloudfront": CLOUDFRONT,
    "cloudfront, policy": CLOUDFRONT_POLICY,
    "hugging face": HUGGING_FACE,
}


@pytest.mark.parametrize("query", SIGNED.values(), ids=SIGNED)
def test_a_signature_is_no_part_of_the_name(query):
    first, second = (f"{URL}?{query.format(number)}" for number in (1, 2))
    assert first != second
    assert url_name(first) == url_name(second)
    assert url_name(first) == url_name(URL)


@pytest.mark.parametrize("query", SIGNED.values(), ids=SIGNED)
@pytest.mark.parametrize("choice", ["versionId", "f", "generation", "snapshot", "spx", "Version"])
def test_what_a_signed_query_says_besides_is_part_of_the_name(query, choice):
    signed = query.format(1)
    names = {
        url_name(f"{URL}?{one}")
        for value in "ab"
        for one in (f"{choice}={value}&{signed}", f"{signed}&{choice}={value}")
    }
    assert len(names) == 2
    assert names == {url_name(f"{URL}?{choice}={value}") for value in "ab"}


@pytest.mark.parametrize("query", SIGNED.values(), ids=SIGNED)
def test_a_part_of_a_signature_is_none(query):
    """Each parameter of a signature distinguishes files if the signature itself is missing."""
    for part in query.format(1).split("&"):
        name = part.partition("=")[0]
        if name.lower() in ("x-amz-signature", "x-goog-signature"):
            continue
        assert lasting_query(f"{URL}?{name}=1") == f"{name}=1"
        assert url_name(f"{URL}?{name}=1") != url_name(f"{URL}?{name}=2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("?f=a", "?f=b"),
        ("?f=a", ""),
        ("?f=a", "?f=A"),
        ("?F=a", "?f=a"),
        ("?a=1&b=2", "?b=2&a=1"),
        ("?a", "?b"),
        ("?a=1&a=2", "?a=2&a=1"),
        ("?sp=1", "?sp=2"),
        ("?sp=1&sig=1", "?sp=2&sig=2"),  # Azure always tells the version too
        ("?Expires=1", "?Expires=2"),
        ("?Expires=1&Signature=a", "?Expires=2&Signature=b"),
        ("?Policy=1&Signature=a", "?Policy=2&Signature=b"),
        ("?X-Amz-Date=1", "?X-Amz-Date=2"),
        ("/?f", "?f"),
        ("x", "X"),
        ("%2Fx", "/x"),
    ],
)
def test_what_may_select_another_file_has_another_name(one, other):
    assert url_name(URL + one) != url_name(URL + other)


@pytest.mark.parametrize(
    "other",
    [
        "HTTPS://HOST.Example/a/file.magnitude?f=a",
        "https://host.example:443/a/file.magnitude?f=a",
        "https://host.example/a/file.magnitude?f=a#part",
        "https://me:secret@host.example/a/file.magnitude?f=a",
        "https://host.example/a/file.magnitude?f=a&",
        "https://host.example/a/file.magnitude?&f=a",
        "https://host.example/a/file.magnitude?%58-Amz-Signature=1&f=a",
    ],
)
def test_what_cannot_select_another_file_has_the_same_name(other):
    name = url_name(URL + "?f=a")
    assert url_name(other) == name
    assert "secret" not in name


@pytest.mark.parametrize(
    "other", ["http://host.example/a/file.magnitude", "https://host.example:444/a/file.magnitude"]
)
def test_scheme_and_port_distinguish(other):
    assert url_name(other) != url_name(URL)


def test_a_name_in_the_path_is_no_query():
    assert url_name("https://h/a%3Ff=1") != url_name("https://h/a?f=1")


def test_files_that_a_query_selects_do_not_share_blocks(tmp_path):
    """Both have the same size and the same date, and no ETag."""
    contents = [bytes([number]) * (300 << 10) for number in (1, 2)]
    options = {"cache_dir": tmp_path / "cache", "cache_size": 8 << 20}
    with ScriptedServer(contents[0], etag=None) as server:
        for number, content in enumerate(contents):
            server.content = content
            with vfs.open(f"{server.url}?f={number}", **options) as file:
                assert file.read(200 << 10, 5) == content[:5]
                assert file.read(0, 5) == content[:5]
