"""Reading files: what comes out, and what each damaged or foreign file is told."""

import collections
import contextlib
import io
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from cnet_core.checkpoints import read, read_state_dict
from cnet_core.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(3, dtype=torch.float16)}


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def test_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path, {"note": "x"})
    file = read_state_dict(str(path))
    assert same(file.tensors, TENSORS)
    assert (file.metadata, file.path) == ({"note": "x"}, path)


def test_kind_is_told_by_content_not_by_extension(tmp_path):
    save_file(TENSORS, tmp_path / "a.pth")
    torch.save(TENSORS, tmp_path / "b.safetensors")
    assert same(read_state_dict(tmp_path / "a.pth").tensors, TENSORS)
    assert same(read_state_dict(tmp_path / "b.safetensors").tensors, TENSORS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", [None, "state_dict", "module"])
def test_pickles(tmp_path, zipped, container):
    content = TENSORS if container is None else {container: TENSORS, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(tmp_path / "a.pth").tensors, TENSORS)


def test_containers_within_containers(tmp_path):
    content = {"module": {"state_dict": collections.OrderedDict(TENSORS)}, "global_step": 5}
    torch.save(content, tmp_path / "a.ckpt")
    assert same(read_state_dict(tmp_path / "a.ckpt").tensors, TENSORS)


def test_of_averaged_and_raw_weights_the_averaged_are_read_and_need_no_gradient(tmp_path):
    raw, averaged = ({"w": torch.nn.Parameter(torch.full((2,), value))} for value in (1.0, 2.0))
    torch.save({"params": raw, "params_ema": averaged}, tmp_path / "net.pth")
    (found,) = read_state_dict(tmp_path / "net.pth").tensors.values()
    assert found.tolist() == [2, 2] and not found.requires_grad


def test_an_only_group_is_a_container_whatever_its_name(tmp_path):
    torch.save({"controlnet": TENSORS}, tmp_path / "a.pth")
    assert same(read_state_dict(tmp_path / "a.pth").tensors, TENSORS)


def test_a_part_of_a_model_is_no_other_model(tmp_path):
    for part, parts in ((2, 3), (1, 1)):
        save_file(TENSORS, tmp_path / f"model-{part:05}-of-{parts:05}.safetensors")
    assert same(read_state_dict(tmp_path / "model-00001-of-00001.safetensors").tensors, TENSORS)
    with pytest.raises(CheckpointError, match=r"part 2 of 3 of a model.*single file"):
        read_state_dict(tmp_path / "model-00002-of-00003.safetensors")


def test_a_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_state_dict(tmp_path / "a.safetensors")


def test_nested_groups_are_joined_by_dots(tmp_path):
    torch.save(
        {"image_proj": {"norm.weight": torch.ones(2)}, "ip_adapter": {"1": {"k": torch.ones(2)}}},
        tmp_path / "a",
    )
    assert sorted(read_state_dict(tmp_path / "a").tensors) == ["image_proj.norm.weight", "ip_adapter.1.k"]


@pytest.mark.parametrize("save_as", [save_file, torch.save], ids=["safetensors", "pickle"])
def test_writing_to_the_tensors_leaves_the_file_alone(tmp_path, save_as):
    save_as(TENSORS, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    for tensor in read_state_dict(tmp_path / "a").tensors.values():
        tensor.zero_()
    assert (tmp_path / "a").read_bytes() == before
    assert same(read_state_dict(tmp_path / "a").tensors, TENSORS)


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads the process size from /proc")
@pytest.mark.parametrize("save_as", [save_file, torch.save], ids=["safetensors", "pickle"])
def test_large_files_are_mapped(tmp_path, save_as):
    """Opening costs no memory for the weights."""

    def resident() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    size = 64 << 20
    save_as({"a": torch.zeros(size, dtype=torch.uint8)}, tmp_path / "a")
    before = resident()
    file = read_state_dict(tmp_path / "a")
    assert resident() - before < size // 2
    assert file.tensors["a"].numel() == size


@settings(deadline=None)
@given(cut=st.integers(1, 10_000))
def test_every_truncation_of_safetensors_is_noticed(tmp_path_factory, cut):
    whole = save({"a": torch.ones(300), "b": torch.ones(7, dtype=torch.bfloat16)})
    path = tmp_path_factory.getbasetemp() / "truncated.safetensors"
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(CheckpointError, match=r"truncated\.safetensors") as caught:
        read_state_dict(path)
    assert "ownload" in str(caught.value)


def test_truncation_says_both_sizes(tmp_path):
    whole = save({"a": torch.ones(1000)})
    (tmp_path / "net.safetensors").write_bytes(whole[:-2500])
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(tmp_path / "net.safetensors")
    message = str(caught.value)
    assert f"{len(whole) - 2500:,} bytes, expected {len(whole):,}" in message
    assert "net.safetensors is truncated" in message and "download it again" in message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_pickles(tmp_path, zipped, share):
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"a\.pth is truncated or damaged"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickles_with_wrong_bytes_are_read_or_refused(tmp_path, zipped):
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "a.pth").read_bytes()
    # Names and storages stand in the pickle, which comes first in both.
    for place in range(0, min(len(whole), 1000), 5):
        (tmp_path / "a.pth").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(CheckpointError):
            read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["state_dict", "weights"])
def test_a_group_that_holds_itself_is_refused(tmp_path, name):
    group = dict(TENSORS)
    group[name] = group
    torch.save(group, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth is truncated or damaged"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"\n\n  <html lang='en'>", "a web page"),
        (b'{"error": "Access to this model is restricted"}', "JSON"),
        (b"Entry not found", "a text file"),
        (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(64), "Unpack it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG picture"),
        (b"\0\1\2\3\4\5\6\7\x08\x09", "unknown format"),
        (b"", "is empty"),
    ],
    ids=["lfs", "html", "html-indented", "json", "text", "gguf", "7z", "png", "noise", "empty"],
)
def test_not_a_checkpoint(tmp_path, content, says):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        read_state_dict(tmp_path / "model.safetensors")
    assert says in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
        read_state_dict(tmp_path / "none.safetensors")


def test_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model.safetensors"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    "header", [b'{"a": nonsense}', b'{"a": ' + 100_000 * b"[" + 100_000 * b"]" + b"}"], ids=["words", "depth"]
)
def test_damaged_header(tmp_path, header):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="damaged safetensors header"):
        read_state_dict(tmp_path / "a.safetensors")


def test_trailing_bytes(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save(TENSORS) + b"more")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
        read_state_dict(tmp_path / "a.safetensors")


class Command:
    """Unpickling it would run a program, which torch refuses in other words than Python's own functions."""

    def __reduce__(self):
        return (os.system, ("touch ran",))


class Marker:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("ran"),))


@pytest.mark.parametrize("code", [Marker, Command])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, monkeypatch, zipped, code):
    monkeypatch.chdir(tmp_path)
    torch.save({**TENSORS, "callback": code()}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="convert the file to safetensors") as caught:
        read_state_dict(tmp_path / "a.ckpt")
    assert "a.ckpt" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_torchs_advice_how_to_run_a_pickle_is_not_handed_on(tmp_path):
    with (tmp_path / "a.ckpt").open("wb") as file:
        pickle.dump({"callback": Command()}, file, protocol=4)
    with pytest.raises(CheckpointError, match=r"a\.ckpt") as caught:
        read_state_dict(tmp_path / "a.ckpt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode here")
def test_a_name_that_is_no_unicode_is_not_called_damage(tmp_path):
    odd = tmp_path / os.fsdecode(b"n\xff.safetensors")
    (tmp_path / "n.safetensors").write_bytes(save(TENSORS))
    (tmp_path / "n.safetensors").rename(odd)
    with pytest.raises(CheckpointError, match="rename it"):
        read_state_dict(odd)


def test_a_program_is_refused_before_torch_sees_it(program, monkeypatch):
    """torch before 2.6 runs a TorchScript program even where it is asked for weights only."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(CheckpointError, match="a TorchScript program, not weights"):
        read_state_dict(program)


def test_a_tensor_larger_than_what_is_stored_of_it_is_refused(tmp_path):
    """One number of which a pickle says that it fills the memory."""
    for huge in (torch.zeros(1).expand(10**6, 10**6), torch.zeros(10**6, 10**6, layout=torch.sparse_coo)):
        torch.save({"a": torch.zeros(2), "b": huge}, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match=r"b, which is larger than what is stored.* made dense"):
            read_state_dict(tmp_path / "net.pth")


def test_a_tar_that_begins_as_pickles_do_does_not_get_to_torch(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "net.pth", "w", encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\x80\x02first"), io.BytesIO())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_state_dict(tmp_path / "net.pth")


def test_an_archive_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("model.safetensors", b"...")
    with pytest.raises(CheckpointError, match=r"a zip archive, not a checkpoint \(it holds model"):
        read_state_dict(tmp_path / "a.pth")


def test_groups_that_hold_each_other_are_refused_at_once(tmp_path):
    group: dict = {}
    for _ in range(60):
        group = {"a": group, "b": group}
    torch.save({**group, "w": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="each other over and over"):
        read_state_dict(tmp_path / "a.pth")


def test_a_name_of_megabytes_is_refused_and_cut(tmp_path):
    save_file({"a." * 500_000 + "\x1b[2J": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no network has such names") as caught:
        read_state_dict(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 1000


def failing(error):
    """A function that fails so."""

    def fails(*_, **__):
        raise error

    return fails


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Cannot allocate memory (os error 12)"),
        RuntimeError("unable to mmap 734003280 bytes from file"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"),
        RuntimeError("Couldn't open shared file: <x>, error code: <1455>"),
        OSError("The paging file is too small for this operation to complete. (os error 1455)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("save_as", [save_file, torch.save], ids=["safetensors", "pickle"])
def test_a_whole_file_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path, monkeypatch, save_as, error
):
    save_as(TENSORS, tmp_path / "a")

    monkeypatch.setattr(read, "load_file", failing(error))
    monkeypatch.setattr(torch, "load", failing(error))
    with pytest.raises(CheckpointError, match=r"cannot be mapped into memory: .*Close other programs"):
        read_state_dict(tmp_path / "a")


def test_damage_that_speaks_of_1455_is_damage(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / "a.pth")

    monkeypatch.setattr(torch, "load", failing(RuntimeError("unexpected EOF, expected 14550 more bytes")))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_state_dict(tmp_path / "a.pth")


def test_a_drive_that_maps_nothing_is_named(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "a.safetensors")

    monkeypatch.setattr(read, "load_file", failing(OSError("No such device (os error 19)")))
    with pytest.raises(CheckpointError, match="cannot map files into memory: copy it"):
        read_state_dict(tmp_path / "a.safetensors")


def test_a_program_whose_archive_cannot_be_listed_is_refused_too(program, monkeypatch):
    """Such as one whose directory asks for a version of the format that there is not."""
    raw = bytearray(program.read_bytes())
    place = raw.find(b"PK\x01\x02")
    while place >= 0:
        raw[place + 6] = 99
        place = raw.find(b"PK\x01\x02", place + 4)
    program.write_bytes(raw)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_state_dict(program)


def test_a_pickle_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="without weights"):
        read_state_dict(tmp_path / "a.pt")
