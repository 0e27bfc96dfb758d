"""Sizes as texts, and paths that begin with the home directory."""

import pytest
from scripted_server import ScriptedServer

import vfs
from vfs.cache.blocks import BlockCache
from vfs.cache.disk import SET
from vfs.options import Options, expanded, size_of

GOOD = {
    "536870912": 536870912,
    "0": 0,
    "300kB": 300_000,
    "512MB": 512_000_000,
    "512mb": 512_000_000,
    " 512 MB ": 512_000_000,
    "1.5 GB": 1_500_000_000,
    "2GiB": 2 << 30,
    "1.5GiB": 3 << 29,
    "0.5KiB": 512,
    "1 MiB": 1 << 20,
    "1TB": 10**12,
    "0.1TiB": 109_951_162_778,  # rounded up
    "12B": 12,
    "0.0001kB": 1,
    str(2**63 - 1): 2**63 - 1,
}
BAD = [
    "much", "", " ", "MB", "-1", "-1MB", "+1", "1.5", "1.5B", ".5GB", "1e9", "1_000", "1,5GB", "1i",
    "1iB", "1k", "1M", "5Mi", "512 M B", "1 GBs", "0x10", "1EB", "٣MB", "1\n2", "1" * 5000,
    "9" * 30, str(2**63), "10000000TiB", "inf", "nan",
]  # fmt: skip


@pytest.mark.parametrize(("text", "size"), GOOD.items())
@pytest.mark.parametrize("name", ["cache_size", "memory_size", "max_bytes"])
def test_a_size_may_be_a_text(name, text, size):
    assert getattr(Options.parse({name: text}), name) == size


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("name", ["cache_size", "memory_size", "max_bytes"])
def test_a_text_that_is_no_size_is_an_error_that_shows_the_forms(name, text):
    with pytest.raises(vfs.OptionError, match=f"option {name}=") as caught:
        Options.parse({name: text})
    assert "expected" in str(caught.value)
    assert "512MB" in str(caught.value) or f"{2**63 - 1:,} bytes" in str(caught.value)


@pytest.mark.parametrize("value", [-1, 1.5, True, b"512MB", [1], 2**63])
@pytest.mark.parametrize("name", ["cache_size", "memory_size", "max_bytes"])
def test_other_values_are_refused_too(name, value):
    with pytest.raises(vfs.OptionError, match=f"option {name}=.*expected"):
        Options.parse({name: value})


@pytest.mark.parametrize("name", ["connections", "retries", "max_requests", "timeout"])
def test_what_counts_no_bytes_takes_no_text(name):
    with pytest.raises(vfs.OptionError, match=f"option {name}="):
        Options.parse({name: "1kB"})


def test_the_environment_has_the_same_forms(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", "1.5 MiB")
    cache = BlockCache(Options(cache_dir=tmp_path))
    assert cache.kept.capacity == 3 << 19
    assert cache.disk.size() == (3 << 19) // SET * SET
    cache.close()


@pytest.mark.parametrize("text", [text for text in BAD if text])
def test_a_size_in_the_environment_that_is_none(tmp_path, monkeypatch, text):
    monkeypatch.setenv("STREAMFILE_CACHE_SIZE", text)
    with pytest.raises(vfs.OptionError, match=r"STREAMFILE_CACHE_SIZE=.*expected"):
        BlockCache(Options(cache_dir=tmp_path))


def test_an_open_file_has_the_sizes_that_texts_tell(tmp_path):
    with (
        ScriptedServer(bytes(1 << 20)) as server,
        vfs.open(
            server.url, cache_dir=tmp_path, cache_size="2 MiB", memory_size="8kB", max_bytes="200kB"
        ) as file,
    ):
        assert file.kept_files.capacity == 2 << 20
        assert file.budget.max_bytes == 200_000
        with pytest.raises(vfs.BudgetError):
            file.read(0, 500_000)


def test_the_message_tells_the_forms():
    with pytest.raises(vfs.OptionError) as caught:
        size_of("this", "2 gigs")
    assert str(caught.value) == (
        "this='2 gigs': expected a number of bytes, such as "
        '"536870912", "512MB", "1.5 GB" or "2GiB"'
    )


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STREAMFILE_CACHE_DIR", "~/environment")
    for options, name in ((Options(cache_dir="~/option"), "option"), (Options(), "environment")):
        BlockCache(options).close()
        assert (tmp_path / name / "blocks.v1").is_file()
    assert expanded("~") == str(tmp_path)
    assert expanded("~nobody-has-this-name/x") == "~nobody-has-this-name/x"
    assert expanded("./a//~/b") == "./a//~/b"


@pytest.mark.parametrize("value", [5, b"cache", ["cache"], True])
def test_a_cache_directory_that_is_no_path_is_an_error(value):
    with pytest.raises(vfs.OptionError, match="option cache_dir="):
        vfs.open("http://127.0.0.1/", cache_dir=value)
