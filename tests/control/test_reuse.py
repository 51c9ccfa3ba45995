"""Residuals reused between steps: where they are computed, and what is said at the other steps."""

import math
import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnet_core.control.reuse import (
    ECONOMIES,
    EXACT,
    METHODS,
    SPACINGS,
    Course,
    Memory,
    Reuse,
    computed_steps,
    weights_at,
)
from cnet_core.errors import ControlError

STEPS = st.integers(1, 60)
SHARES = st.floats(0.01, 1.0)
POLICIES = st.builds(
    Reuse, st.sampled_from(["hold", "predicted"]), st.sampled_from(list(SPACINGS)), SHARES, st.just(0.05)
)


def even(steps):
    """The ways of a run whose steps are alike."""
    return [i / steps for i in range(steps)]


def run(reuse, truth, steps=30, half_steps=False):
    """(what is said, whether it was computed) at each position; truth: from a position to [1,...]."""
    memory, said = Memory(reuse, even(steps)), []
    places = [i / 2 for i in range(2 * steps)] if half_steps else [float(i) for i in range(steps)]
    for position in places:
        due = memory.due("row", position)
        if due:
            memory.keep(["row"], position, [truth(position)])
        said.append((memory.said(["row"], position)[0], due))
    return said


def linear(position):
    return torch.tensor([[1.0 - 0.5 * position, 2.0 + 0.25 * position]], dtype=torch.float64)


# Which steps


@given(SHARES, st.sampled_from(["uniform", "dense early"]), STEPS)
def test_planned_steps_are_as_many_as_budgeted_sorted_and_begin_with_the_first(share, spacing, steps):
    plan = Reuse("predicted", spacing, share).plan(even(steps))
    assert plan[0] == 0 and plan == sorted(set(plan)) and plan[-1] < steps
    assert len(plan) == math.ceil(share * steps - 1e-9)


@given(STEPS)
def test_exact_computes_every_step_and_keeps_nothing(steps):
    assert EXACT.plan(even(steps)) == list(range(steps))
    assert EXACT.kept == 0
    course = Course([2.0**-i for i in range(steps)], lambda sigma: -math.log2(sigma) / steps)
    assert all(computed_steps(EXACT, course, [2.0**-i for i in range(steps)], [True] * steps))


def test_economies_are_what_they_say():
    assert ECONOMIES["exact"].exact
    assert len(ECONOMIES["light"].plan(even(30))) == 9
    assert len(ECONOMIES["strong"].plan(even(30))) == 6


def test_dense_early_computes_more_of_the_first_steps_than_of_the_last():
    dense, uniform = (
        Reuse("predicted", one, share=1 / 3).plan(even(60)) for one in ("dense early", "uniform")
    )
    assert sum(step < 30 for step in dense) > sum(step < 30 for step in uniform)


@given(POLICIES)
def test_the_first_step_is_computed_and_each_planned_one_once(reuse):
    computed = [due for _, due in run(reuse, linear)]
    assert computed[0]
    if not reuse.adaptive:
        assert [i for i, due in enumerate(computed) if due] == reuse.plan(even(30))


@given(SHARES, st.sampled_from(["uniform", "dense early"]))
def test_of_two_calls_a_step_the_share_is_the_same_and_half_steps_are_never_computed(share, spacing):
    computed = [due for _, due in run(Reuse("predicted", spacing, share), linear, half_steps=True)]
    assert not any(computed[1::2])
    # Only after the first step is it known that the sampler asks twice.
    assert abs(sum(computed) - min(30, math.ceil(60 * share - 1e-9))) <= 1


def test_a_step_before_the_last_computed_one_is_computed_again():
    """Samplers that go back up to a higher noise level begin anew there."""
    memory = Memory(Reuse("predicted", "uniform", 0.2), even(20))
    for position in (0.0, 5.0, 10.0):
        assert memory.due("row", position)
        memory.keep(["row"], position, [linear(position)])
    assert not memory.due("row", 10.0) and not memory.due("row", 11.0)
    assert memory.due("row", 6.0)
    memory.keep(["row"], 6.0, [linear(6.0)])
    torch.testing.assert_close(memory.said(["row"], 7.0)[0], linear(7.0))


@given(SHARES, st.sampled_from(["uniform", "dense early"]))
def test_going_back_is_no_call_more_in_a_step(share, spacing):
    """heunpp2 asks at each step, the next, and the one after, and goes back two."""
    memory = Memory(Reuse("predicted", spacing, share), even(30))
    asked = [float(min(step + ahead, 29)) for step in range(30) for ahead in range(3)]
    computed = 0
    for position in asked:
        if memory.due("row", position):
            memory.keep(["row"], position, [linear(position)])
            computed += 1
    assert len(memory.reuse.plan(even(30))) <= computed <= share * len(asked) + 2


def test_rows_that_are_asked_for_no_more_are_let_go():
    """Prompts in turn, each of its own steps, take no more memory than a few of them."""
    memory = Memory(Reuse("predicted", "uniform", 0.3), even(60))
    kept = []
    for position in map(float, range(60)):
        row = f"prompt {int(position) // 5}"
        if memory.due(row, position):
            memory.keep([row], position, [value := linear(position)])
            kept.append(weakref.ref(memory._rows[row][-1].kept))
            del value
        elif position % 5:
            memory.said([row], position)
    assert len(kept) > 12 and sum(one() is not None for one in kept) <= 6


def test_rows_that_are_asked_for_where_sampling_has_gone_back_are_not_forgotten():
    """As by windows that overlap, of a prompt of the early steps."""
    memory = Memory(ECONOMIES["light"], even(20))

    def ask(rows, position):
        due = [row for row in rows if memory.due(row, position)]
        if due:
            memory.keep(due, position, [torch.full((len(due), 4), position)])
        return memory.said(rows, position)[0]

    for step in range(16):
        ask(["negative"], float(step))
    for position in (2.0, 3.0):
        for window in (["a", "b"], ["c", "b"]):
            assert ask(window, position).isfinite().all()
    assert ask(["a", "b", "c"], 2.0).eq(2).all()


def test_adaptive_steps_are_fewer_the_less_changes_and_the_more_is_accepted():
    def wild(position):
        return torch.tensor([[math.sin(position), math.cos(2 * position)]])

    def calm(position):
        return torch.tensor([[2 + math.sin(position / 10), 1.0]])

    def computed(truth, bound):
        return sum(due for _, due in run(Reuse("predicted", "adaptive", bound=bound), truth))

    assert computed(wild, 0.01) == 30
    assert computed(calm, 0.1) < computed(calm, 0.03) < computed(calm, 0.01) < 20


@pytest.mark.parametrize("bound", [0.02, 0.1])
def test_adaptive_predictions_stay_near_the_bound(bound):
    def slow(position):
        return torch.tensor([[2 + math.sin(position / 6), math.cos(position / 6)]], dtype=torch.float64)

    for i, (said, _) in enumerate(run(Reuse("predicted", "adaptive", bound=bound), slow)):
        assert float((said - slow(i)).norm() / slow(i).norm()) < 3 * bound


# What is said


@given(POLICIES, st.booleans())
def test_what_does_not_change_is_predicted_exactly(reuse, half_steps):
    constant = torch.tensor([[1.5, -2.25]])
    for said, _ in run(reuse, lambda position: constant, half_steps=half_steps):
        torch.testing.assert_close(said, constant, rtol=1e-5, atol=0)


@given(st.sampled_from(list(SPACINGS)), SHARES, st.booleans())
def test_a_straight_line_is_predicted_exactly_from_two_steps_on(spacing, share, half_steps):
    said = run(Reuse("predicted", spacing, share), linear, half_steps=half_steps)
    second = [i for i, (_, due) in enumerate(said) if due][1:2]
    for i, (value, _) in enumerate(said):
        if second and i >= second[0]:
            torch.testing.assert_close(value, linear(i / 2 if half_steps else i), rtol=1e-9, atol=1e-9)


def test_where_residuals_turn_back_less_of_their_way_is_taken_to_go_on():
    """A walk at random is held rather than predicted; each row goes by what it did itself."""
    steps = torch.randn(30, 1, 500, generator=torch.Generator().manual_seed(1))
    wild, calm = steps.cumsum(0), torch.arange(30.0).view(-1, 1, 1) + 0.01 * steps
    truths = {"wild": wild, "calm": calm}
    memory, errors = Memory(Reuse("predicted", "uniform", 1 / 3), even(30)), dict.fromkeys(truths, 0.0)
    held = dict(errors)
    for i in range(30):
        if memory.due("wild", i):
            last = i
            memory.keep(list(truths), i, [torch.cat([truth[i] for truth in truths.values()])])
        for said, (row, truth) in zip(memory.said(list(truths), i)[0], truths.items(), strict=True):
            errors[row] += float((said - truth[i]).square().sum())
            held[row] += float((truth[last] - truth[i]).square().sum())
    assert errors["wild"] < 1.2 * held["wild"]
    assert errors["calm"] < 0.2 * held["calm"]


@given(POLICIES)
def test_at_computed_steps_the_computed_tensors_themselves_are_said(reuse):
    known = {i: torch.randn(1, 3) for i in range(30)}
    for i, (said, due) in enumerate(run(reuse, lambda position: known[int(position)])):
        if due:
            assert torch.equal(said, known[i])


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True).map(sorted),
    st.integers(0, 20),
    st.floats(-1, 2),
)
def test_weights_sum_to_one_and_are_exact_at_the_last_anchor(anchors, ahead, steadiness):
    assert sum(weights_at(anchors, anchors[-1] + ahead, steadiness)) == pytest.approx(1)
    assert weights_at(anchors, anchors[-1], steadiness) == [0.0] * (len(anchors) - 1) + [1.0]


@pytest.mark.parametrize("spacing", ["uniform", "adaptive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_told_apart_in_whatever_company_they_come(dtype, spacing):
    """Rows computed together, apart and in another order are predicted alike, to the last bit."""
    reuse = Reuse("predicted", spacing, 0.5)
    together, apart = Memory(reuse, even(8)), Memory(reuse, even(8))
    # Residuals that have no size in common.
    shapes = (4, 3), (5, 1), (7, 2)

    def joined(names, rows):
        return [None, *(torch.cat([rows[name][i] for name in names]) for i in range(len(shapes)))]

    for position in (0.0, 2.0, 4.0):
        rows = {name: [torch.randn(1, *shape, dtype=dtype) for shape in shapes] for name in "abc"}
        together.keep("abc", position, joined("abc", rows))
        order = "cab" if position else "bac"
        for some in (order[:2], order[2:]):
            apart.keep(some, position, joined(some, rows))
    for order in ("abc", "cba", "b"):
        (nothing, *own), (_, *others) = together.said(order, 5.0), apart.said(order, 5.0)
        assert nothing is None
        for one, other in zip(own, others, strict=True):
            assert one.dtype == dtype and torch.equal(one, other)
    assert [together.due(name, 5.0) for name in "abc"] == [apart.due(name, 5.0) for name in "abc"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_how_far_to_go_on_is_the_mean_over_the_residuals_whatever_their_size(dtype):
    """Each counts alike, by shares of its own size, however many values it has."""
    memory = Memory(Reuse("predicted", "uniform", 1.0), even(4))
    for position, (large, small) in enumerate([(1.0, 1.0), (3.0, 3.0), (5.0, 2.0)]):
        residuals = [torch.full((1, 30), large, dtype=dtype), torch.full((1, 4), small, dtype=dtype)]
        memory.keep(["row"], float(position), residuals)
    # The large one goes on as it went, the small one turns back.
    came, length = (4 / 25 - 2 / 4) / 2, (4 / 25 + 4 / 4) / 2
    assert memory._steadiness("row") == pytest.approx(came / length, rel=1e-5)


def test_residuals_beyond_half_precisions_differences_are_predicted():
    memory = Memory(Reuse("predicted", "uniform", 1.0), even(4))
    for position, value in enumerate([-40000.0, 40000.0, 42000.0]):
        memory.keep(["row"], float(position), [torch.tensor([[value, 1.0]], dtype=torch.float16)])
    assert memory.said(["row"], 2.5)[0].isfinite().all()


def test_adaptive_anchors_go_on_where_a_network_fails():
    """What comes of such a picture is the host's to show."""
    memory = Memory(Reuse("predicted", "adaptive"), even(4))
    for position, value in enumerate([1.0, math.nan, math.inf, 1.0]):
        assert memory.due("row", float(position))
        memory.keep(["row"], float(position), [torch.tensor([[value, 1.0]])])


def test_of_a_tensor_at_several_places_the_prediction_stands_there_too():
    memory = Memory(Reuse("predicted", "uniform", 0.5), even(8))
    for position in (0.0, 2.0):
        shared = torch.randn(2, 3)
        memory.keep("ab", position, [shared, torch.randn(2, 3), shared])
    first, _, third = memory.said("ab", 3.0)
    assert first is third


@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (1, 2, 3, 3)], ids=["another size", "another place"])
def test_residuals_laid_out_otherwise_than_before_begin_anew(shape):
    memory = Memory(Reuse("predicted", "uniform", 0.5), even(8))
    memory.keep(["row"], 0.0, [torch.ones(1, 2, 3, 3), None])
    memory.keep(["row"], 2.0, [None, torch.full(shape, 5.0)])
    first, second = memory.said(["row"], 3.0)
    assert first is None and second.unique().tolist() == [5]


def test_only_as_many_computed_steps_are_kept_as_predictions_need():
    for method, degree in METHODS.items():
        reuse = Reuse(method, "uniform", 1.0)
        if reuse.exact:
            continue
        memory = Memory(reuse, even(10))
        for position in range(10):
            memory.keep(["row"], float(position), [linear(position)])
        assert len(memory._rows["row"]) == reuse.kept == degree + 1


# Noise levels


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30, unique=True))
def test_positions_count_steps_and_rise_as_noise_falls(levels):
    levels = sorted(levels, reverse=True)
    if any(b > a * 0.99 for a, b in pairwise(levels)):
        return
    course = Course(levels, lambda sigma: 0.0)
    assert [course.position(level) for level in levels] == list(range(len(levels)))
    assert [course.position(level * (1 + 1e-7)) for level in levels] == list(range(len(levels)))
    for i, (here, there) in enumerate(pairwise(levels)):
        assert course.position(math.sqrt(here * there)) == pytest.approx(i + 0.5)
    assert course.position(levels[0] * 2) < 0 and course.position(0.0) > len(levels) - 1


def test_levels_of_zero_and_repeated_ones_are_no_steps():
    assert len(Course([4.0, 2.0, 2.0, 1.0, 0.0], lambda sigma: 1 / (1 + sigma))) == 3


def test_steps_lie_between_their_number_and_the_share_of_sampling_done():
    levels = [2.0**-i for i in range(10)]
    alike = Course(levels, lambda sigma: -math.log2(sigma) / 9)
    assert alike.ways == pytest.approx(even(10))
    # Nearly all of the noise goes in the first half of the steps.
    early = Course(levels, lambda sigma: 1 - sigma)
    assert all(one >= other for one, other in zip(early.ways, alike.ways, strict=True))
    assert early.ways == sorted(early.ways) and early.ways[0] == 0 and early.ways[-1] == pytest.approx(0.9)
    for spacing in ("uniform", "dense early"):
        plans = [Reuse("predicted", spacing, 0.4).plan(course.ways) for course in (early, alike)]
        assert all(one <= other for one, other in zip(*plans, strict=True)) and plans[0] != plans[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "guess"}, "exact, hold, predicted"),
        ({"method": "hold", "spacing": "odd"}, "uniform, dense early, adaptive"),
        ({"method": "hold", "share": 0.0}, "above 0 to 1"),
        ({"method": "hold", "share": 1.5}, "above 0 to 1"),
        ({"method": "hold", "bound": 0.0}, "above 0"),
        ({"method": "hold", "bound": math.inf}, "above 0"),
    ],
)
def test_wrong_settings_are_told(settings, said):
    with pytest.raises(ControlError, match=said):
        Reuse(**settings)
