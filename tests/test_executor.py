"""Blocks depend on the data alone, and the local engine is a loop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.executor import blocks, map_shards
from pipeline.progress import Progress

TOTALS = st.integers(0, 10**7)
UNITS = st.integers(1, 300)


@given(TOTALS, UNITS, UNITS)
def test_blocks_cover_all_and_begin_at_whole_shards_and_batches(
    total: int, shard: int, batch: int
) -> None:
    cut = blocks(total, shard=shard, batch=batch)
    assert [block.start for block in cut[1:]] == [block.stop for block in cut[:-1]]
    assert (cut[0].start, cut[-1].stop) == (0, total) if total else cut == []
    assert all(block.start % shard == block.start % batch == 0 for block in cut)
    assert all(len(block) == len(cut[0]) for block in cut[:-1])


def test_there_are_about_512_blocks_until_they_are_at_their_largest() -> None:
    sizes = {n: len(blocks(n, shard=64)) for n in (64, 65, 32_768, 100_000, 500_000, 10**7)}
    assert sizes == {64: 1, 65: 2, 32_768: 512, 100_000: 391, 500_000: 489, 10**7: 9766}


def test_the_local_engine_is_a_loop_with_progress_in_items() -> None:
    def halves(shard: str, progress: Progress) -> str:
        progress(1, 2)
        return shard.upper()

    seen: list[tuple[int, int]] = []
    items = [range(2), range(2, 4)]
    found = map_shards(halves, ["a", "b"], items=items, progress=lambda *n: seen.append(n))
    assert found == ["A", "B"]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
