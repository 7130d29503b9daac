"""Properties of the plan: every token that counts once, in order, within the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from biddable.engine.plan import SHORTEST_PREFIX, first_trained, last_trained, plan_step
from tiny import Row


@st.composite
def steps(draw: st.DrawFn) -> list[Row]:
    commons = draw(st.lists(st.lists(st.integers(0, 3), max_size=40), min_size=1, max_size=3))
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        common = draw(st.sampled_from(commons))
        own = draw(st.lists(st.integers(0, 3), min_size=2, max_size=12))
        ids = common + own
        weights = [0.0] * len(ids)
        first = draw(st.integers(max(1, len(common) - 3), len(ids) - 1))
        for i in range(first, len(ids)):
            weights[i] = draw(st.sampled_from([0.0, 1.0, 0.5]))
        weights[first] = 1.0
        rows.append(Row(ids, weights))
    return rows


@given(steps(), st.integers(1, 120), st.booleans())
def test_each_example_is_fed_once_from_its_prefix_to_its_last_trained_token(
    rows: list[Row], budget: int, share: bool
) -> None:
    plan = plan_step(rows, budget, share=share)
    segments = [s for batch in plan.micro_batches for s in batch]
    assert sorted(s.example for s in segments) == list(range(len(rows)))
    for s in segments:
        row = rows[s.example]
        assert s.stop == last_trained(row)
        assert len(s) >= 1
        assert s.start < first_trained(row)
        if s.group < 0:
            assert s.start == 0
        else:
            prefix = plan.prefixes[s.group]
            assert s.start == len(prefix)
            assert tuple(row.input_ids[: s.start]) == prefix


@given(steps(), st.integers(1, 120))
def test_a_micro_batch_keeps_to_the_budget_unless_one_example_alone_exceeds_it(
    rows: list[Row], budget: int
) -> None:
    for batch in plan_step(rows, budget).micro_batches:
        assert sum(map(len, batch)) <= budget or len(batch) == 1


@given(steps(), st.integers(1, 120))
def test_members_of_a_group_stand_together_and_in_order(rows: list[Row], budget: int) -> None:
    for batch in plan_step(rows, budget).micro_batches:
        groups = [s.group for s in batch]
        assert groups == sorted(groups, key=lambda g: (g < 0, g))
        for group in set(groups):
            members = [s.example for s in batch if s.group == group]
            assert members == sorted(members)


@given(steps())
def test_sharing_never_feeds_more_tokens(rows: list[Row]) -> None:
    shared, alone = plan_step(rows, 64), plan_step(rows, 64, share=False)
    assert shared.tokens <= alone.tokens
    assert all(len(p) >= SHORTEST_PREFIX for p in shared.prefixes)
    assert shared == plan_step(rows, 64)


def test_a_common_system_prompt_is_fed_once() -> None:
    system = list(range(100, 150))
    rows = [Row([*system, i, i, 7, 8], [0.0] * 52 + [1.0, 1.0]) for i in range(8)]
    plan = plan_step(rows, 1000)
    assert [len(p) for p in plan.prefixes] == [50]
    assert plan.tokens == 50 + 8 * 3
    assert plan.padded_tokens == 8 * 54


def test_two_system_prompts_make_two_groups() -> None:
    rows = [Row([*([s] * 30), i, 9, 9], [0.0] * 31 + [1.0, 1.0]) for i in range(4) for s in (1, 2)]
    assert len(plan_step(rows, 1000).prefixes) == 2
