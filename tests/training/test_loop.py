"""The loop: exact resumption, what ends it, and what is on disk then."""

import dataclasses
import json
import os

import pytest
import torch

from cnet_core.drawing import COLOURS
from cnet_core.errors import TrainingError
from cnet_core.training.curves import History, curves
from cnet_core.training.learner import Learner
from cnet_core.training.loop import CURVES, HISTORY, STATES, fit, probe_file
from cnet_core.training.optimizer import ema_decay, rate_at
from cnet_core.training.probes import Probe
from cnet_core.training.state import State, States, read_state

from .conftest import SETTINGS, Memory, make_learner

AVERAGED = dataclasses.replace(SETTINGS, ema=0.9, accumulation=2)


def states(folder):
    return [path.stem for path in States(folder / STATES, 2).paths()]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Cancelled(BaseException):
    """As a host's Cancel."""


def cancel_at(step):
    def report(now):
        if now.step == step:
            raise Cancelled

    return report


def test_a_training_goes_to_its_end_and_reports(tmp_path, source):
    reports = []
    settings = dataclasses.replace(SETTINGS, show_every=3)
    assert fit(make_learner(settings), source, tmp_path, report=reports.append)
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6]
    assert [r.loss is not None for r in reports] == [False, False, True, False, False, True]
    assert reports[-1].left == 0 and reports[0].rate == pytest.approx(settings.rate / 2)
    assert [r.saved is not None for r in reports] == [False, True, False, True, False, True]
    assert states(tmp_path) == ["step-00000004", "step-00000006"]
    history = json.loads((tmp_path / HISTORY).read_text())
    assert len(history["losses"]) == 6
    assert (tmp_path / CURVES).stat().st_size > 1000


@pytest.mark.parametrize("settings", [SETTINGS, AVERAGED, dataclasses.replace(SETTINGS, rank=2)])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_cancelled_and_resumed_it_ends_as_if_it_had_not_been(tmp_path, source, settings, step):
    straight = make_learner(settings)
    fit(straight, source, tmp_path / "straight")
    with pytest.raises(Cancelled):
        fit(make_learner(settings), source, tmp_path / "cut", report=cancel_at(step))
    assert read_state(tmp_path / "cut" / STATES / f"step-{step:08}.safetensors").step == step
    resumed = make_learner(settings)
    assert fit(resumed, source, tmp_path / "cut", resume=True)
    assert same(resumed.state().tensors, straight.state().tensors)
    assert resumed.state().facts == straight.state().facts
    assert same(resumed.result(), straight.result())
    histories = [(tmp_path / run / HISTORY).read_text() for run in ("straight", "cut")]
    assert histories[0] == histories[1]


def test_another_initial_network_is_another_training(tmp_path, source):
    fit(make_learner(SETTINGS), source, tmp_path)
    other = make_learner(SETTINGS)
    with torch.no_grad():
        other.weights[0].add_(1)
    with pytest.raises(TrainingError, match="initial ControlNet was another"):
        fit(other, source, tmp_path, resume=True)
    # States of before it was noted are taken as they are.
    for path in States(tmp_path / STATES, 2).paths():
        state = read_state(path)
        del state.facts["identity"]["initial ControlNet"]
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        States(tmp_path / STATES, 2).write(State(state.step, tensors, state.facts))
    assert fit(make_learner(SETTINGS), source, tmp_path, resume=True)


def test_an_end_before_the_first_step_leaves_the_folder_free_for_other_settings(tmp_path):
    class TooLarge(Memory):
        def batch(self, *asked):
            raise MemoryError

    with pytest.raises(MemoryError):
        fit(make_learner(), TooLarge(), tmp_path)
    assert states(tmp_path) == []
    assert fit(make_learner(dataclasses.replace(SETTINGS, batch=1)), Memory(), tmp_path)


def test_asked_to_stop_it_writes_a_state_and_says_that_it_did_not_finish(tmp_path, source):
    answers = iter([False, False, True])
    assert not fit(make_learner(), source, tmp_path, stop=lambda: next(answers))
    assert states(tmp_path)[-1] == "step-00000003"


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_last_good_state(tmp_path):
    source = Memory(broken=("5",))
    learner = make_learner()
    with pytest.raises(TrainingError, match="the loss became nan in step") as caught:
        fit(learner, source, tmp_path)
    assert "5" in str(caught.value).partition("examples")[2].partition(".")[0].replace(",", "").split()
    assert all(torch.isfinite(p).all() for p in learner.weights)
    for path in States(tmp_path / STATES, 2).paths():
        assert all(torch.isfinite(t).all() for t in read_state(path).tensors.values())


def test_weights_that_are_no_numbers_are_not_written(tmp_path, source):
    """A step of finite loss makes them: here by its length, else by gradients that overflow."""
    learner = make_learner(dataclasses.replace(SETTINGS, rate=1e39, warm_up=0, save_every=1))
    with pytest.raises(TrainingError, match="no numbers any more after step 1"):
        fit(learner, source, tmp_path)
    assert states(tmp_path) == []


def test_losses_that_are_read_later_are_looked_at_before_a_state_is_written(tmp_path, source):
    learner = make_learner()
    fit(make_learner(), source, tmp_path)
    found = torch.tensor([[[1.0], [float("inf")], [float("nan")]]])
    with pytest.raises(TrainingError, match="became inf in step 5"):
        learner.check(found, source, step=3)


@pytest.mark.parametrize(
    "change, named",
    [({"rate": 2e-2}, "rate was 0.01, is 0.02"), ({"batch": 3}, "batch was 2, is 3"), ({"ema": 0.5}, "ema")],
)
def test_another_configuration_is_refused_by_name(tmp_path, source, change, named):
    fit(make_learner(), source, tmp_path)
    with pytest.raises(TrainingError, match=named):
        fit(make_learner(dataclasses.replace(SETTINGS, **change)), source, tmp_path, resume=True)


def test_a_state_is_never_removed_for_a_damaged_one_of_a_later_step(tmp_path, source):
    fit(make_learner(dataclasses.replace(SETTINGS, keep=2)), source, tmp_path)
    *_, last = States(tmp_path / STATES, 2).paths()
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(Cancelled):
        short = dataclasses.replace(SETTINGS, keep=1, save_every=1)
        fit(make_learner(short), source, tmp_path, resume=True, report=cancel_at(5))
    assert States(tmp_path / STATES, 1).newest()[0].step == 5


def test_states_of_which_none_can_be_read_are_named_as_such(tmp_path, source):
    fit(make_learner(), source, tmp_path)
    for path in States(tmp_path / STATES, 2).paths():
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"none of the states.*another folder.*step-00000006"):
        fit(make_learner(), source, tmp_path, resume=True)


def test_other_data_and_another_base_are_refused(tmp_path, source, base):
    fit(make_learner(), source, tmp_path)
    with pytest.raises(TrainingError, match="data was memory 6"):
        fit(make_learner(), Memory(7), tmp_path, resume=True)
    with torch.no_grad():
        base.out[2].bias += 1
    with pytest.raises(TrainingError, match="base was"):
        fit(make_learner(base=base), source, tmp_path, resume=True)


def test_more_steps_may_be_added_at_a_constant_rate(tmp_path, source):
    fit(make_learner(), source, tmp_path / "more")
    longer = dataclasses.replace(SETTINGS, steps=9)
    resumed, straight = make_learner(longer), make_learner(longer)
    assert fit(resumed, source, tmp_path / "more", resume=True)
    assert fit(straight, source, tmp_path / "straight")
    assert same(resumed.result(), straight.result())


def test_a_folder_in_use_is_refused_and_an_empty_one_cannot_be_resumed(tmp_path, source):
    with pytest.raises(TrainingError, match="no state of a training to resume"):
        fit(make_learner(), source, tmp_path, resume=True)
    fit(make_learner(), source, tmp_path)
    with pytest.raises(TrainingError, match=r"holds a training already \(up to step-00000006\)"):
        fit(make_learner(), source, tmp_path)


def test_a_damaged_state_is_named_and_the_one_before_it_serves(tmp_path, source):
    straight = make_learner()
    fit(straight, source, tmp_path)
    newest = States(tmp_path / STATES, 2).paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    resumed = make_learner()
    assert fit(resumed, source, tmp_path, resume=True, say=said.append)
    assert len(said) == 1 and str(newest) in said[0]
    assert same(resumed.result(), straight.result())


def test_what_a_killed_process_left_of_a_state_is_cleared_away(tmp_path, source):
    (tmp_path / STATES).mkdir()
    (tmp_path / STATES / ".step-00000002.safetensors.0123.tmp").write_bytes(b"half a state")
    fit(make_learner(), source, tmp_path)
    assert len(list((tmp_path / STATES).iterdir())) == SETTINGS.keep


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_anything_is_trained(tmp_path, source):
    tmp_path.chmod(0o500)
    with pytest.raises(TrainingError, match="cannot be written to"):
        fit(make_learner(), source, tmp_path / "run")


@pytest.mark.parametrize("name", [CURVES, HISTORY])
def test_files_of_others_are_not_written_over(tmp_path, source, name):
    (tmp_path / name).write_text("not ours")
    learner = make_learner()
    with pytest.raises(TrainingError, match=rf"has {name}, but no states.*Choose another folder"):
        fit(learner, source, tmp_path)
    assert learner.step == 0 and {path.name for path in tmp_path.iterdir()} == {name}


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_trained(tmp_path, source):
    (tmp_path / "file").write_text("")
    learner = make_learner()
    with pytest.raises(TrainingError, match="cannot be written to: "):
        fit(learner, source, tmp_path / "file" / "run")
    assert learner.step == 0


@pytest.mark.skipif(not hasattr(os, "pathconf"), reason="asks the system how long paths may be")
def test_a_folder_too_deep_for_the_names_of_states_is_refused_before_anything_is_trained(tmp_path, source):
    folder, learner = tmp_path, make_learner()
    longest = os.pathconf(tmp_path, "PC_PATH_MAX") - 60
    while len(str(folder)) < longest:
        folder /= "f" * min(100, longest - len(str(folder)))
        folder.mkdir(exist_ok=True)
    with pytest.raises(TrainingError, match=r"cannot be written to: .*; nothing was trained"):
        fit(learner, source, folder)
    assert learner.step == 0


def test_a_full_disk_loses_nothing_that_was_written(tmp_path, source):
    """A limit on the size of files stands for the full disk: the system refuses the same call."""
    resource = pytest.importorskip("resource")
    with pytest.raises(Cancelled):
        fit(make_learner(), source, tmp_path, report=cancel_at(2))
    before = {path: path.read_bytes() for path in (tmp_path / STATES).iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"step-00000004.safetensors cannot be written"):
            fit(make_learner(), source, tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in (tmp_path / STATES).iterdir()} == before
    resumed, straight = make_learner(), make_learner()
    assert fit(resumed, source, tmp_path, resume=True)
    fit(straight, source, tmp_path / "straight")
    assert same(resumed.result(), straight.result())


def test_the_average_follows_its_formula(source):
    learner = make_learner(AVERAGED)
    expected = [p.detach().clone().double() for p in learner.weights]
    for step in range(5):
        learner.advance(source)
        decay = min(0.9, (1 + step) / (10 + step))
        assert ema_decay(step, 0.9) == decay
        expected = [
            decay * e + (1 - decay) * p.double() for e, p in zip(expected, learner.weights, strict=True)
        ]
    for average, wanted in zip(learner.average, expected, strict=True):
        torch.testing.assert_close(average.double(), wanted, rtol=1e-5, atol=1e-7)
    name = next(iter(learner.named))
    assert torch.equal(learner.result()[name], learner.average[0])


class Drawing:
    """A prober whose pictures cost nothing, but at the `cancelled`-th the user cancels."""

    def __init__(self, cancelled: int = 0):
        self.left = cancelled

    def draw(self, control):
        self.left -= 1
        if self.left == 0:
            raise Cancelled
        return Probe(torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 3), 0.5)


PROBED = dataclasses.replace(AVERAGED, probe_every=3, save_every=2)


@pytest.mark.parametrize("exchange", [3, 4], ids=["in", "back"])
def test_weights_that_are_half_exchanged_with_their_averages_are_not_written(
    tmp_path, source, monkeypatch, exchange
):
    learner, whole, calls = make_learner(PROBED), Learner.swapped, []

    def swapped(self):
        calls.append(None)
        if len(calls) == exchange:
            self.weights[0].data.copy_(self.average[0])
            raise MemoryError
        whole(self)

    monkeypatch.setattr(Learner, "swapped", swapped)
    with pytest.raises(MemoryError):
        fit(learner, source, tmp_path, prober=Drawing())
    assert states(tmp_path) == ["step-00000002"]


def test_a_probe_that_cannot_be_written_does_not_end_the_training(tmp_path, source):
    said: list[str] = []
    # A folder is there, so that no file can be.
    blocked = probe_file(tmp_path, 3)
    (blocked / "held").mkdir(parents=True)
    assert fit(make_learner(PROBED), source, tmp_path, prober=Drawing(), say=said.append)
    assert any(f"{blocked} cannot be written" in line for line in said)
    assert probe_file(tmp_path, 6).is_file() and not list(tmp_path.rglob("*.part"))


def test_cancelled_while_the_averaged_weights_draw_it_keeps_the_others(tmp_path, source):
    straight, resumed = make_learner(PROBED), make_learner(PROBED)
    fit(straight, source, tmp_path / "straight", prober=Drawing())
    with pytest.raises(Cancelled):
        fit(make_learner(PROBED), source, tmp_path / "cut", prober=Drawing(2))
    assert states(tmp_path / "cut")[-1] == "step-00000003"
    assert fit(resumed, source, tmp_path / "cut", resume=True, prober=Drawing())
    assert same(resumed.state().tensors, straight.state().tensors)


def test_the_running_mean_is_a_plain_one_at_first_and_then_forgets():
    assert History([4.0, 2.0, 0.0]).smoothed() == pytest.approx([4, 3, 2])
    assert History([0.0] * 100 + [1.0]).smoothed()[-1] == pytest.approx(0.02)


def test_a_loss_that_falls_is_drawn_falling():
    picture = curves(History([1 - i / 100 for i in range(100)]))[0]
    line = (picture * 255 - torch.tensor(COLOURS[0])).abs().amax(-1) < 8
    rows, columns = line.nonzero().T
    left, right = (rows[columns == edge].float().mean() for edge in (columns.min(), columns.max()))
    assert left + 50 < right


def test_the_rate_rises_then_stays_or_falls_to_nothing():
    constant = dataclasses.replace(SETTINGS, warm_up=4, steps=14, rate=1.0)
    assert [rate_at(s, constant) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = dataclasses.replace(constant, schedule="cosine")
    assert rate_at(9, cosine) == pytest.approx(0.5) and rate_at(14, cosine) == pytest.approx(0, abs=1e-12)
    # The quarters of a half wave.
    quarters = dataclasses.replace(cosine, steps=12)
    falls = [rate_at(s, quarters) for s in (3, 4, 6, 8, 10)]
    assert falls == pytest.approx([1.0, 1.0, 0.853553, 0.5, 0.146447], rel=1e-5)
    assert rate_at(20, quarters) == pytest.approx(0, abs=1e-12)


def test_accumulated_and_whole_batches_read_the_same_examples_in_the_end(source):
    one, two = make_learner(dataclasses.replace(SETTINGS, accumulation=3)), make_learner()
    assert [one.index(part) for part in range(3)] == [0, 1, 2]
    assert two.index(0, step=2) == 2
