"""Which requests a wave is made of."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.transport.plan import (
    ALIGNMENT,
    LARGEST_GAP,
    MOST_BANDWIDTH,
    PIECE,
    SMALL_WAVE_GAP,
    Pace,
    plan_wave,
)

KIB = 1 << 10
GAPS = st.one_of(
    st.integers(1, 200 * KIB),
    st.integers(1, 6).map(lambda n: n * 4 * KIB),  # equal ones are frequent in block numbers
    st.sampled_from([SMALL_WAVE_GAP, SMALL_WAVE_GAP + 1, LARGEST_GAP, LARGEST_GAP + 1]),
)


def missing_ranges(most=40, longest=4 * PIECE):
    """Make disjoint rising ranges from gaps and lengths."""

    def place(steps):
        end, ranges = 0, []
        for gap, length in steps:
            ranges.append((end + gap, end + gap + length))
            end += gap + length
        return ranges

    lengths = st.integers(1, longest)
    return st.lists(st.tuples(GAPS, lengths), min_size=1, max_size=most).map(place)


CONNECTIONS = st.integers(1, 40)
LATENCIES = st.floats(1e-4, 1)
BANDWIDTHS = st.floats(1e4, MOST_BANDWIDTH)


def joined(plan):
    """Undo the splitting: join what touches."""
    whole = [plan[0]]
    for start, end in plan[1:]:
        if start == whole[-1][1]:
            whole[-1] = (whole[-1][0], end)
        else:
            whole.append((start, end))
    return whole


def gaps_of(missing):
    return [b - a for (_, a), (b, _) in pairwise(missing)]


def cost(ranges, extra, connections, latency, bandwidth):
    return -(-ranges // connections) * latency + extra / bandwidth


@given(missing_ranges(), CONNECTIONS, LATENCIES, BANDWIDTHS)
def test_a_plan_covers_what_is_missing_in_disjoint_rising_pieces(
    missing, connections, latency, bandwidth
):
    plan = plan_wave(missing, connections, latency, bandwidth)
    assert all(start < end for start, end in plan)
    assert all(a <= b for (_, a), (b, _) in pairwise(plan))
    whole = joined(plan)
    for start, end in missing:
        assert any(a <= start and end <= b for a, b in whole)
    edges = {edge for one in missing for edge in one}
    assert all(start in edges and end in edges for start, end in whole)  # and nothing around it


@given(missing_ranges(), CONNECTIONS, LATENCIES, BANDWIDTHS)
def test_no_gap_above_the_limit_is_fetched(missing, connections, latency, bandwidth):
    whole = joined(plan_wave(missing, connections, latency, bandwidth))
    limit = SMALL_WAVE_GAP if len(missing) < connections else LARGEST_GAP
    wide = sum(gap > limit for gap in gaps_of(missing))
    assert len(whole) >= wide + 1
    for start, end in whole:
        inside = [one for one in missing if start <= one[0] and one[1] <= end]
        assert all(gap <= limit for gap in gaps_of(inside))


@given(missing_ranges(most=20), LATENCIES, BANDWIDTHS)
def test_a_small_wave_joins_all_gaps_up_to_its_limit(missing, latency, bandwidth):
    whole = joined(plan_wave(missing, len(missing) + 1, latency, bandwidth))
    assert len(whole) == 1 + sum(gap > SMALL_WAVE_GAP for gap in gaps_of(missing))


@given(missing_ranges(longest=10 * KIB), st.integers(1, 8), LATENCIES, BANDWIDTHS)
def test_a_large_wave_costs_no_more_than_any_threshold_for_gaps(
    missing, connections, latency, bandwidth
):
    connections = min(connections, len(missing))
    gaps = gaps_of(missing)
    whole = joined(plan_wave(missing, connections, latency, bandwidth))
    extra = sum(end - start for start, end in whole) - sum(end - start for start, end in missing)
    least = min(
        cost(
            len(missing) - sum(gap <= limit for gap in gaps),
            sum(gap for gap in gaps if gap <= limit),
            *(connections, latency, bandwidth),
        )
        for limit in {0, *(gap for gap in gaps if gap <= LARGEST_GAP)}
    )
    assert cost(len(whole), extra, connections, latency, bandwidth) <= least * (1 + 1e-9)


@given(missing_ranges(most=8, longest=10 * KIB), st.integers(1, 4), LATENCIES, BANDWIDTHS)
def test_a_large_wave_costs_the_least_of_all_ways_to_join(missing, connections, latency, bandwidth):
    connections = min(connections, len(missing))
    gaps = [gap for gap in gaps_of(missing) if gap <= LARGEST_GAP]
    whole = joined(plan_wave(missing, connections, latency, bandwidth))
    extra = sum(end - start for start, end in whole) - sum(end - start for start, end in missing)
    least = min(
        cost(len(missing) - count, sum(chosen), connections, latency, bandwidth)
        for count in range(len(gaps) + 1)
        for chosen in combinations(gaps, count)
    )
    assert cost(len(whole), extra, connections, latency, bandwidth) == pytest.approx(least)


def test_of_equal_gaps_no_more_are_joined_than_a_round_is_worth():
    missing = [(n * 12 * KIB, n * 12 * KIB + 4 * KIB) for n in range(9)]
    whole = joined(plan_wave(missing, 8, 0.05, MOST_BANDWIDTH))
    assert len(whole) == 8  # one gap less than the threshold of 8 KiB, and one round


def test_nothing_is_asked_for_nothing():
    assert plan_wave([], 8, 0.1, MOST_BANDWIDTH) == []


@given(missing_ranges(most=6, longest=40 * PIECE), CONNECTIONS)
def test_long_ranges_are_split_at_multiples_of_the_alignment(missing, connections):
    plan = plan_wave(missing, connections, 0.1, MOST_BANDWIDTH)
    for start, end in joined(plan):
        inside = [piece for piece in plan if start <= piece[0] and piece[1] <= end]
        assert all((piece[0] - start) % ALIGNMENT == 0 for piece in inside)
        if end - start < 2 * PIECE:
            assert inside == [(start, end)]
        else:
            assert all(b - a <= 2 * (end - start) / len(inside) for a, b in inside)
    assert len(plan) <= connections + len(joined(plan))


def test_one_long_range_is_shared_by_all_connections():
    plan = plan_wave([(8192, 8192 + 32 * PIECE)], 32, 0.1, MOST_BANDWIDTH)
    assert [end - start for start, end in plan] == [PIECE] * 32
    plan = plan_wave([(0, 320 * PIECE)], 32, 0.1, MOST_BANDWIDTH)
    assert [end - start for start, end in plan] == [10 * PIECE] * 32


def test_the_latency_is_the_median_of_the_last_answers():
    pace = Pace()
    assert pace.latency == 0.1
    for seconds in (5, 0.02, 0.01, 0.03, 9):
        pace.answered(seconds)
    assert pace.latency == 0.03
    for _ in range(33):
        pace.answered(0.5)
    assert pace.latency == 0.5  # older ones are forgotten


def test_the_bandwidth_follows_large_waves_and_is_capped():
    pace = Pace()
    assert pace.bandwidth == MOST_BANDWIDTH
    pace.answered(0.1)
    pace.received(PIECE - 1, 100, 1)  # too little to tell
    assert pace.bandwidth == MOST_BANDWIDTH
    pace.received(10_000_000, 10.2, 2)  # two rounds of latency, ten seconds of transfer
    assert pace.bandwidth == pytest.approx((MOST_BANDWIDTH + 1e6) / 2)
    pace.received(10_000_000, 0.1, 1)  # faster than can be measured
    assert pace.bandwidth == pytest.approx((MOST_BANDWIDTH + 1e6) / 2)
    for _ in range(60):
        pace.received(10_000_000_000, 1, 1)
    assert pace.bandwidth == pytest.approx(MOST_BANDWIDTH)
    pace.received(10_000_000, 10.1, 1)
    assert pace.bandwidth == pytest.approx((MOST_BANDWIDTH + 1e6) / 2)  # no memory of the excess
