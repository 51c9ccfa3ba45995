"""The benchmark of annotators refuses what it cannot measure, and measures both sides alike."""

import pytest
import torch

from benchmarks.annotators import main, measured


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "cany"], "invalid choice: 'cany'"),
        (["--only", "tile"], "give --peer"),
        (["--clock", "cpu", "--device", "cuda"], "--clock wall with --device cuda"),
        (["--clock", "cpu", "--threads", "2"], "--threads 1"),
    ],
)
def test_wrong_options_are_refused(options, said, capsys):
    with pytest.raises(SystemExit):
        main(options)
    assert said in capsys.readouterr().err


def test_a_batch_costs_by_the_picture_and_both_take_turns():
    order, now = [], iter(range(100))

    def call(name):
        """Takes one second, as much as a look at the clock."""
        return lambda images: order.append((name, len(images))) or next(now)

    pair = call("ours"), call("theirs")
    assert measured(pair, torch.zeros(4, 1, 1, 3), 2, now.__next__) == (0.5, 0.5)
    # Each once before it counts.
    assert order[:2] == [("ours", 1), ("theirs", 1)]
    assert order[2:] == [("theirs", 4), ("ours", 4), ("ours", 4), ("theirs", 4)]
