"""The LZ4 frame decoder, held against the reference implementation."""

import os
import random

import lz4.block
import lz4.frame
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfile.errors import FormatError
from streamfile.readers.lz4_frame import HISTORY, FrameDecoder

CASES = 100
MAGIC = b"\x04\x22\x4d\x18"


def sample(size, seed, share=0.5):
    """Give bytes of which a share are random, the rest repeat what came before."""
    rng = random.Random(seed)
    data = bytearray(rng.randbytes(min(size, 1000)))
    while len(data) < size:
        length = rng.randint(4, 3000)
        if rng.random() < share:
            data += rng.randbytes(length)
        else:
            start = rng.randrange(max(0, len(data) - 60_000), len(data))
            data += data[start : start + length]
    return bytes(data[:size])


def frames():
    """Draw (content, frame) with all options that the reference implementation has."""
    return st.builds(
        lambda size, seed, share, store, blocks, **options: (
            content := sample(size, seed, share),
            compress(content, store, blocks, seed, options),
        ),
        size=st.one_of(st.integers(0, 300), st.integers(0, 400_000)),
        seed=st.integers(0, 2**32),
        share=st.sampled_from([0, 0.1, 0.9, 1]),
        store=st.booleans(),
        blocks=st.booleans(),
        block_size=st.sampled_from([0, 4, 5, 6, 7]),
        block_linked=st.booleans(),
        content_checksum=st.booleans(),
        block_checksum=st.booleans(),
        compression_level=st.sampled_from([-3, 0, 3, 9]),
    )


def compress(content, store, blocks, seed, options):
    """Make a frame at once, or by pieces that end blocks where they like."""
    if not blocks:
        return lz4.frame.compress(content, store_size=store, **options)
    rng = random.Random(seed)
    compressor = lz4.frame.LZ4FrameCompressor(auto_flush=rng.random() < 0.5, **options)
    frame, at = compressor.begin(len(content) if store else 0), 0
    while at < len(content):
        length = rng.choice([rng.randint(1, 200), rng.randint(1, 200_000)])
        frame += compressor.compress(content[at : at + length])
        at += length
    return frame + compressor.flush()


def decode(frame, step=None):
    """Give the content of a whole frame that comes by pieces."""
    decoder = FrameDecoder("f", len(frame))
    step = step or max(1, len(frame))
    content = b"".join(
        block
        for at in range(0, len(frame), step)
        for block in decoder.decode(frame[at : at + step])
    )
    decoder.finish()
    end = 8 if decoder.header.content_checksum else 4
    assert (decoder.consumed, decoder.produced) == (len(frame) - end, len(content))
    return content


def header(flags, sizes, rest=b""):
    """Give a header with the right checksum."""
    described = bytes([flags, sizes]) + rest
    return MAGIC + described + bytes([xxhash.xxh32_intdigest(described) >> 8 & 0xFF])


@settings(max_examples=CASES, deadline=None)
@given(frames(), st.sampled_from([None, 1000, 65_536]))
def test_decodes_what_the_reference_implementation_encodes(drawn, step):
    content, frame = drawn
    assert decode(frame, step) == content


def test_takes_a_frame_byte_by_byte():
    content = sample(3000, 1)
    for options in ({}, {"content_checksum": True, "block_checksum": True}):
        assert decode(lz4.frame.compress(content, **options), 1) == content


def test_short_blocks_refer_back_beyond_the_one_before():
    first, second = os.urandom(1000), os.urandom(500)
    frame, content = header(0x40, 0x40), b""
    for piece in (first, second, first, second, first + second):
        block = lz4.block.compress(piece, store_size=False, dict=content)
        assert (len(block) < 100) == (piece in content)
        frame += len(block).to_bytes(4, "little") + block
        content += piece
    frame += bytes(4)
    assert decode(frame) == lz4.frame.decompress(frame) == content


@settings(max_examples=CASES, deadline=None)
@given(frames(), st.integers(0, 2**32))
def test_goes_on_behind_any_block(drawn, seed):
    content, frame = drawn
    decoder, known, stops = FrameDecoder("f", len(frame)), 0, []
    for block in decoder.decode(frame):
        known += len(block)
        stops.append((decoder.consumed, known))
    for consumed, produced in random.Random(seed).sample(stops, min(4, len(stops))):
        again = FrameDecoder("f", len(frame))
        assert not list(again.decode(decoder.header.data))
        begin = 0 if again.header.content_checksum else max(0, produced - HISTORY)
        again.restore(consumed, produced, [content[begin:produced]])
        rest = b"".join(again.decode(frame[consumed:]))
        again.finish()
        assert content[:produced] + rest == content


@pytest.mark.parametrize("store", [False, True])
def test_refuses_a_frame_cut_off_at_any_byte(store):
    content = sample(700, 2)
    frame = lz4.frame.compress(
        content, content_checksum=True, block_checksum=True, store_size=store
    )
    for length in range(len(frame)):
        decoder, came = FrameDecoder("f", len(frame)), b""
        for block in decoder.decode(frame[:length]):
            came += block
        assert content.startswith(came)
        with pytest.raises(FormatError, match="cut off"):
            decoder.finish()


def test_refuses_a_frame_with_any_byte_changed():
    frame = lz4.frame.compress(sample(700, 3), content_checksum=True, block_checksum=True)
    for at in range(len(frame)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(frame)
            damaged[at] ^= change
            with pytest.raises(FormatError, match="f: malformed"):
                decode(bytes(damaged))


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_never_gives_what_the_reference_implementation_does_not(seed, linked):
    rng = random.Random(seed)
    frame = bytearray(
        lz4.frame.compress(sample(900, seed % 7), block_linked=linked, store_size=False)
    )
    for _ in range(rng.randint(1, 3)):
        frame[rng.randrange(len(frame))] = rng.randrange(256)
    try:
        content = decode(bytes(frame))
    except FormatError:
        return
    assert content == lz4.frame.decompress(bytes(frame))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"CDF\x01", "no LZ4 frame: expected"),
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00", "no LZ4 frame"),  # a skippable frame
        (b"\x02\x21\x4c\x18", "no LZ4 frame"),  # the legacy format
        (header(0x41, 0x40, bytes(4)), "needs a dictionary"),
        (header(0x80, 0x40), "unknown flags"),  # version 2
        (header(0x42, 0x40), "unknown flags"),
        (header(0x40, 0xC0), "unknown flags"),
        (header(0x40, 0x41), "unknown flags"),
        (header(0x40, 0x30), "unknown block size 3"),
        (header(0x40, 0x40)[:-1] + b"\x00", "header has a wrong checksum"),
        (header(0x48, 0x40, b"\xff" * 8), "more than LZ4 can make of them"),
        (header(0x40, 0x40) + (65_537).to_bytes(4, "little"), "65,536 are the most"),
        (header(0x40, 0x40) + (65_537 | 1 << 31).to_bytes(4, "little"), "65,536 are the most"),
        (header(0x40, 0x40) + b"\x01\x00\x00\x00\xff", "cannot be decoded"),
    ],
)
def test_refuses_what_is_no_frame_that_it_knows(start, message):
    with pytest.raises(FormatError, match=message):
        decode(start + bytes(20))


def test_refuses_bytes_behind_the_end():
    frame = lz4.frame.compress(b"content")
    for more in (b"\x00", frame):
        with pytest.raises(FormatError, match="further bytes behind the end"):
            decode(frame + more)
    with pytest.raises(FormatError, match="further bytes behind the end"):
        decode(frame + b"\x00", 1)


def test_holds_a_frame_to_the_content_size_that_it_tells():
    told = lz4.frame.compress(b"content" * 30, store_size=True)
    for size in (209, 211):
        lie = header(told[4], told[5], size.to_bytes(8, "little")) + told[15:]
        with pytest.raises(FormatError, match=r"more content than the 209|header says 211"):
            decode(lie)


def test_refuses_a_block_larger_than_the_frame_allows():
    block = lz4.block.compress(bytes(65_537), store_size=False)
    with pytest.raises(FormatError, match="cannot be decoded"):
        decode(header(0x60, 0x40) + len(block).to_bytes(4, "little") + block + bytes(4))


def test_bounds_what_a_frame_expands_to():
    zeros = bytes(50 << 20)
    told = lz4.frame.compress(zeros, store_size=True)
    assert decode(told) == zeros
    untold = lz4.frame.compress(zeros, store_size=False)
    decoder, came = FrameDecoder("f", len(untold)), []
    with pytest.raises(FormatError, match="expands beyond"):
        came.extend(map(len, decoder.decode(untold)))
    assert 0 < sum(came) <= decoder.most == 32 * len(untold) + (1 << 20)


def test_a_wrong_checksum_is_found_after_going_on():
    content = os.urandom(200_000)
    frame = lz4.frame.compress(content, content_checksum=True)
    decoder = FrameDecoder("f", len(frame))
    produced = len(next(iter(decoder.decode(frame))))
    again = FrameDecoder("f", len(frame))
    assert not list(again.decode(decoder.header.data))
    again.restore(decoder.consumed, produced, [bytes(produced)])
    with pytest.raises(FormatError, match="content has a wrong checksum"):
        list(again.decode(frame[decoder.consumed :]))
