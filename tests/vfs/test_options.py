"""Addresses and options that cannot be."""

import pytest
from remote_content import opened

import vfs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file",
        "/a/file",
        "file:///a/file",
        "ftp://host/file",
        "http://",
        "http:///file",
        "http://host:port/file",
        "http://host:99999/file",
        "http://[::1/file",
    ],
)
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(vfs.OptionError, match="no URL"):
        opened(url)


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(vfs.OptionError, match=r"'cachedir'.*cache_dir.*connections.*max_bytes"):
        vfs.open("http://127.0.0.1/", cachedir="x")


@pytest.mark.parametrize(
    "option",
    [
        {"connections": 0},
        {"connections": 2.5},
        {"connections": "8"},
        {"connections": None},
        {"retries": -1},
        {"retries": True},
        {"timeout": -1},
        {"timeout": None},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"deadline": "1"},
        {"deadline": float("inf")},
        {"deadline": 1e300},
        {"cache_size": -1},
        {"memory_size": -1},
        {"memory_size": None},
        {"max_requests": -1},
        {"max_bytes": 1.5},
        {"headers": "Authorization: x"},
        {"headers": [("Authorization", "x")]},
        {"cache_key": 5},
        {"session": "cookie"},
    ],
)
def test_an_impossible_value_is_refused(option):
    (name,) = option
    with pytest.raises(vfs.OptionError, match=f"option {name}=.*expected"):
        vfs.open("http://127.0.0.1/", **option)
