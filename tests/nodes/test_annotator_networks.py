"""Networks of annotators in the host's keeping: what is kept, and for how long."""

import importlib
import os

import pytest
import torch

from minihost import shims


@pytest.fixture
def annotators(nodes):
    package = nodes["CNetCanny"].__module__.rsplit(".", 2)[0]
    return importlib.import_module(f"{package}.annotators.weights")


@pytest.fixture
def folder(host, tmp_path):
    """The only folder of annotators."""
    folders = shims.folder_paths.folder_names_and_paths["controlnet_annotators"][0]
    kept = list(folders)
    folders[:] = [str(tmp_path)]
    yield tmp_path
    folders[:] = kept


def annotator(weights, name: str, build=None):
    def own(paths):
        (path,) = paths.values()
        return weights.load(torch.nn.Linear(2, 2), weights.read(path), path)

    return weights.Annotator(
        id=name,
        title=name,
        condition="line",
        kind="soft",
        description="",
        convention="",
        annotate=lambda pictures, net: None,
        build=build or own,
        weights=(weights.WeightFile("someone/Nets", "net.pth", "MIT"),),
    )


def test_a_network_is_kept_until_its_file_changes_or_others_come(host, annotators, folder):
    def save(value: float) -> None:
        torch.save({"weight": torch.full((2, 2), value), "bias": torch.zeros(2)}, folder / "net.pth")

    save(1.0)
    one = annotator(annotators, "one")
    first = host.annotator_network(one)
    assert host.annotator_network(one) is first
    assert first.ready().weight.eq(1).all() and first.ready().weight.dtype == torch.float32
    half = host.annotator_network(one, "fp16")
    assert half.ready().weight.dtype == torch.float16 and host.annotator_network(one) is first
    save(2.0)
    os.utime(folder / "net.pth", (1, 1))
    second = host.annotator_network(one)
    assert second.ready().weight.eq(2).all()
    for name in "abcd":
        host.annotator_network(annotator(annotators, name))
    assert host.annotator_network(one) is not second


def test_annotators_of_one_network_share_it(host, annotators, folder):
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "net.pth")
    one = annotator(annotators, "one")
    assert host.annotator_network(annotator(annotators, "two", one.build)) is host.annotator_network(one)
    assert host.annotator_network(annotator(annotators, "three")) is not host.annotator_network(one)


def test_what_the_shell_fetched_is_found(host, annotators, folder, tmp_path_factory, monkeypatch):
    """In its folders, after the host's own, which are where downloads go."""
    shells = tmp_path_factory.mktemp("shell")
    monkeypatch.setenv("CNET_ANNOTATORS", str(shells))
    torch.save({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, shells / "net.pth")
    assert host.annotator_folders() == [str(folder), str(shells)]
    one = annotator(annotators, "one")
    host.fetch_annotator(one)
    assert host.annotator_network(one).ready().weight.eq(1).all()
    assert not list(folder.iterdir())


def test_a_missing_file_is_an_error_that_names_the_hosts_folder(host, annotators, folder):
    with pytest.raises(ValueError, match=r"net\.pth of the repository someone/Nets") as raised:
        host.annotator_network(annotator(annotators, "one"))
    assert str(folder) in str(raised.value)


def test_what_is_there_is_not_fetched(host, annotators, folder):
    (folder / "net.pth").write_bytes(b"kept")
    host.fetch_annotator(annotator(annotators, "one"))
    assert [path.name for path in folder.rglob("*")] == ["net.pth"]


def test_progress_counts_and_a_cancel_ends_it(host):
    report = host.annotation_progress()
    report(0, 3)
    report(2, 3)
    shims.model_management.interrupt_current_processing()
    with pytest.raises(shims.model_management.InterruptProcessingException):
        report(3, 3)


def test_the_host_offers_a_folder_for_annotators(host):
    folders = host.annotator_folders()
    assert any(os.path.basename(folder) == "controlnet_annotators" for folder in folders)
