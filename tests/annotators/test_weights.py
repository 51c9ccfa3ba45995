"""Weights of annotators: where they are found, what is read, what a fetch leaves behind."""

import hashlib
import os
import random
import threading
import warnings
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from annotators import weights
from annotators.__main__ import main
from annotators.errors import WeightsError
from annotators.registry import Annotation, Annotator, WeightFile


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)


def linear(paths):
    (path,) = paths.values()
    return weights.load(Net(), weights.read(path), path)


def annotator(*, file: str = "net.pth", sha256: str | None = None, build=linear) -> Annotator:
    return Annotator(
        id="line",
        title="Line",
        condition="line",
        kind="soft",
        description="",
        convention="",
        annotate=lambda pictures, net: Annotation(pictures),
        build=build,
        weights=(WeightFile("someone/Nets", file, "MIT", sha256),),
    )


@pytest.fixture(autouse=True)
def nothing_elsewhere(tmp_path, monkeypatch):
    """No file of the machine's own cache is found."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    "place", ["net.pth", "Nets/net.pth", "someone/Nets/net.pth", "net.safetensors", "net.pt"]
)
def test_a_file_is_found_by_its_name_or_below_its_repository_as_pickle_or_safetensors(tmp_path, place):
    net = Net()
    path = tmp_path / "second" / place
    path.parent.mkdir(parents=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    found = weights.build(annotator(), [tmp_path / "first", tmp_path / "second"])
    assert torch.equal(found.weight, net.weight)
    assert not found.training and not any(p.requires_grad for p in found.parameters())


def test_names_that_many_repositories_share_are_found_below_their_own_only(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "pytorch_model.bin")
    one = annotator(file="pytorch_model.bin")
    assert weights.find(one.weights[0], [tmp_path]) is None
    (tmp_path / "someone/Nets").mkdir(parents=True)
    torch.save(Net().state_dict(), tmp_path / "someone/Nets/pytorch_model.bin")
    assert weights.find(one.weights[0], [tmp_path]) is not None


def test_files_in_the_hubs_cache_are_found(tmp_path):
    stored = tmp_path / "hub" / "models--someone--Nets"
    (stored / "snapshots" / "abc").mkdir(parents=True)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("abc")
    torch.save(Net().state_dict(), stored / "snapshots" / "abc" / "net.pth")
    assert weights.build(annotator(), [tmp_path / "empty"]) is not None


def test_folders_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CNET_ANNOTATORS", os.pathsep.join([str(tmp_path / "a"), str(tmp_path)]))
    torch.save(Net().state_dict(), tmp_path / "net.pth")
    assert weights.locate(annotator()) == {"net.pth": tmp_path / "net.pth"}


def test_the_folder_of_the_comfyui_around_the_pack_comes_before_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("CNET_ANNOTATORS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache/cnet/annotators"
    for pack in ("ComfyUI/custom_nodes/cnet", "elsewhere/custom_nodes/cnet", "ComfyUI/cnet"):
        (tmp_path / pack).mkdir(parents=True)
    models = tmp_path / "ComfyUI/models"
    models.mkdir()
    monkeypatch.setattr(weights, "PACK", tmp_path / "ComfyUI/custom_nodes/cnet")
    assert weights.default_folders() == [models / "controlnet_annotators", cache]
    for pack in ("elsewhere/custom_nodes/cnet", "ComfyUI/cnet"):
        monkeypatch.setattr(weights, "PACK", tmp_path / pack)
        assert weights.default_folders() == [cache]


def test_a_missing_file_is_named_with_repository_folder_and_command(tmp_path):
    with pytest.raises(WeightsError) as raised:
        weights.build(annotator(), [tmp_path])
    message = str(raised.value)
    assert all(part in message for part in ("net.pth", "someone/Nets", str(tmp_path)))
    assert f'python -m uv run python -m annotators fetch line --to "{tmp_path}"' in message
    with pytest.raises(WeightsError, match=f"neither in {tmp_path}, {tmp_path / 'b'} nor"):
        weights.build(annotator(), [tmp_path, tmp_path / "b"])


def truncated(path):
    torch.save(Net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("what", ["program", "tar"])
def test_what_older_versions_of_torch_would_run_does_not_get_to_it(tmp_path, monkeypatch, program, what):
    path = program if what == "program" else tmp_path / "net.pth"
    if what == "tar":
        path.write_bytes(b"storages and more")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(WeightsError, match=rf"{path.name} could not be read as weights"):
        weights.read(path)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "write",
    [
        truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        lambda path: path.write_text("<html>not found</html>"),
        lambda path: torch.save(Harm(), path),
        lambda path: torch.save([1], path),
        lambda path: torch.save({1: torch.zeros(1)}, path),
        lambda path: torch.save({"model": {1: torch.zeros(1)}}, path),
        lambda path: torch.save({"model": {"epoch": 3}}, path),
        lambda path: torch.save({"model": 3}, path),
        lambda path: path.mkdir(),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_damaged_and_foreign_files_are_named_and_run_nothing(tmp_path, monkeypatch, write, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=name):
        weights.read(tmp_path / name, "model")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"weight": torch.zeros(2, 2)}, "lacks bias"),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "more": torch.zeros(1)}, "has more, unknown"),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
            r"shape \[3, 2\], expected \[2, 2\]",
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, tensors, fault):
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=fault):
        weights.build(annotator(), [tmp_path])


def test_names_may_be_those_of_several_devices_and_optional_ones_may_lack(tmp_path):
    held = {"module.weight": torch.ones(2, 2), "epoch": 3}
    net = weights.load(Net(), held, tmp_path, optional=r"^bias$")
    assert net.weight.eq(1).all()


def test_building_leaves_random_numbers_warnings_and_environment_as_they_were(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "net.pth")

    def rude(paths):
        os.environ["CNET_TEST_OF_RUDENESS"] = "1"
        warnings.simplefilter("error")
        return linear(paths)

    filters, state, drawn = list(warnings.filters), torch.get_rng_state(), random.getstate()
    numbers = np.random.get_state()[1].copy()
    weights.build(annotator(build=rude), [tmp_path])
    assert warnings.filters == filters and "CNET_TEST_OF_RUDENESS" not in os.environ
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == drawn
    assert (np.random.get_state()[1] == numbers).all()


CONTENT = random.Random(0).randbytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub():
    """A model hub on this machine, whose answers a test may spoil: address, and what it says and sends."""
    answers = {"content": CONTENT, "etag": DIGEST, "size": len(CONTENT)}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            found = self.path == "/someone/Nets/resolve/main/net.pth"
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{answers["etag"]}"')
            if found:
                self.send_header("Content-Length", str(answers["size"]))
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers["content"])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_fetch_leaves_the_file_below_its_repository_and_reports_its_way(tmp_path, hub, sha256):
    reports = []
    one = annotator(sha256=sha256)
    fetched = weights.fetch(one, tmp_path, lambda weight, *bytes_: reports.append(bytes_), endpoint=hub[0])
    assert fetched == files(tmp_path) == [tmp_path / "someone/Nets/net.pth"]
    assert fetched[0].read_bytes() == CONTENT
    assert weights.find(one.weights[0], [tmp_path]) == fetched[0]
    assert reports == sorted(reports) and reports[-1] == (len(CONTENT), len(CONTENT)) and len(reports) > 1


def test_a_file_that_is_there_is_not_fetched_again(tmp_path):
    target = tmp_path / "someone/Nets/net.pth"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"kept")
    weights.fetch(annotator(), tmp_path, endpoint="http://127.0.0.1:9")
    assert target.read_bytes() == b"kept"


def test_only_files_that_are_nowhere_are_fetched(tmp_path, hub):
    """Not those in another folder, nor in the hub's cache."""
    one = annotator()
    files_ = [WeightFile("someone/Nets", name, "MIT") for name in ("there.pth", "cached.pth")]
    one = replace(one, weights=(files_[0], *one.weights, files_[1]))
    there = tmp_path / "other/there.pth"
    cached = tmp_path / "hub/models--someone--Nets/snapshots/abc/cached.pth"
    refs = tmp_path / "hub/models--someone--Nets/refs"
    for folder in (there.parent, cached.parent, refs):
        folder.mkdir(parents=True)
    there.touch()
    cached.touch()
    (refs / "main").write_text("abc")
    fetched = weights.fetch(one, tmp_path / "to", endpoint=hub[0], folders=[tmp_path / "other"])
    assert fetched == [there, tmp_path / "to/someone/Nets/net.pth", cached]
    assert files(tmp_path / "to") == fetched[1:2]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_a_fetched_file_may_be_read_by_whom_the_umask_says(tmp_path, hub, mask):
    kept = os.umask(mask)
    try:
        (path,) = weights.fetch(annotator(), tmp_path, endpoint=hub[0])
    finally:
        os.umask(kept)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"content": CONTENT[:-9]}, f"broke off after {len(CONTENT) - 9} of {len(CONTENT)}"),
        ({"content": CONTENT[::-1]}, f"SHA-256 .*expected {DIGEST}"),
        ({"content": b"", "size": 0}, "SHA-256"),
    ],
)
def test_nothing_stays_of_a_download_that_went_wrong(tmp_path, hub, spoilt, said):
    hub[1].update(spoilt)
    with pytest.raises(WeightsError, match=said):
        weights.fetch(annotator(), tmp_path, endpoint=hub[0])
    assert files(tmp_path) == []


def test_the_registrys_hash_counts_more_than_the_hubs(tmp_path, hub):
    with pytest.raises(WeightsError, match=f"{DIGEST}, expected {'0' * 64}"):
        weights.fetch(annotator(sha256="0" * 64), tmp_path, endpoint=hub[0])
    assert files(tmp_path) == []


def test_a_cancelled_download_leaves_nothing(tmp_path, hub):
    class Cancelled(BaseException):
        pass

    def cancel(*args):
        raise Cancelled

    with pytest.raises(Cancelled):
        weights.fetch(annotator(), tmp_path, cancel, endpoint=hub[0])
    assert files(tmp_path) == []


def test_a_file_that_the_hub_lacks_and_a_hub_that_is_not_there_are_named(tmp_path, hub):
    with pytest.raises(WeightsError, match=r"other\.pth of someone/Nets could not be fetched"):
        weights.fetch(annotator(file="other.pth"), tmp_path, endpoint=hub[0])
    with pytest.raises(WeightsError, match=r"net\.pth of someone/Nets could not be fetched"):
        weights.fetch(annotator(), tmp_path, endpoint="http://127.0.0.1:9")


def test_the_shell_fetches_by_name_and_names_what_went_wrong(tmp_path, capsys, monkeypatch):
    target = tmp_path / "lllyasviel/Annotators/ControlNetHED.pth"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"kept")
    assert main(["fetch", "hed", "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert main(["fetch", "no_such", "--to", str(tmp_path)]) == 1
    assert "no_such" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["fetch", "mlsd", "--to", str(tmp_path)]) == 1
    assert "mlsd_large_512_fp32.pth of lllyasviel/Annotators" in capsys.readouterr().err
