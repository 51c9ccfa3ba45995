"""Caches: keyed by content, reused, resumable, and whole at every moment."""

import dataclasses
import errno
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnet_core.errors import DataError
from cnet_core.training import cache as caching
from cnet_core.training import shards as sharding
from cnet_core.training.cache import Cache, HintMaker, Preparation, build
from cnet_core.training.data import Dataset, from_batch, read_folder
from cnet_core.training.encoders import MiniEncoders
from cnet_core.training.order import batches_of_round, mixed
from cnet_core.training.pictures import read_picture

REPO = Path(__file__).parents[2]
SMALL = Preparation(64, 64)


class Counting:
    """Encoders that count their calls; the latent is the picture's mean colour."""

    latent_id, text_id = "latents-1", "texts-1"
    latent_scale: float | None = 0.5

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.stop_after: int | None = None

    def latent(self, image):
        if self.stop_after is not None and self.seen.count("latent") == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append("latent")
        mean = image.movedim(-1, 0).reshape(3, 8, 8, 8, 8).mean((2, 4))
        return mean, torch.full_like(mean, 0.25)

    def text(self, caption):
        self.seen.append(caption)
        return torch.full((4, 2), float(len(caption))), torch.full((3,), 1.0)


@pytest.fixture
def encoders() -> Counting:
    return Counting()


@pytest.fixture
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images, hints = torch.rand(2, 5, 64, 64, 3, generator=generator)
    return from_batch(images, hints, [f"caption {i}" for i in range(5)])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_gives_back_what_was_encoded(dataset, encoders, tmp_path):
    cache = build(dataset, encoders, tmp_path, SMALL)
    assert [e.name for e in cache.manifest.examples] == [pair.name for pair in dataset.pairs]
    for pair, example in zip(dataset.pairs, cache.manifest.examples, strict=True):
        mean, std = cache.latent(example)
        assert torch.equal(mean, Counting().latent(torch.from_numpy(pair.picture()).float() / 255)[0])
        assert std is not None and (std == 0.25).all()
        assert np.array_equal(cache.hint(example).numpy(), pair.control())
        context, pooled = cache.text(example.text)
        assert (context == len(pair.caption)).all() and pooled.shape == (3,)
    assert not cache.text(cache.manifest.empty)[0].any()


def test_a_second_run_encodes_nothing_and_changes_no_byte(dataset, encoders, tmp_path):
    build(dataset, encoders, tmp_path, SMALL)
    before = files(tmp_path)
    encoders.seen.clear()
    build(dataset, encoders, tmp_path, SMALL)
    assert encoders.seen == [] and files(tmp_path) == before


def test_a_caption_that_was_cut_inside_a_character_is_cached(dataset, encoders, tmp_path):
    """Half an emoji, as JSON may hold it."""
    images = torch.from_numpy(np.stack([pair.picture() for pair in dataset.pairs])).float() / 255
    build(from_batch(images, images, ["a cat \ud83d"]), encoders, tmp_path, SMALL)
    example = Cache(tmp_path).manifest.examples[0]
    assert (Cache(tmp_path).text(example.text)[0] == len("a cat \ud83d")).all()


def test_the_same_data_gives_the_same_files(dataset, tmp_path):
    for name in ("one", "two"):
        build(dataset, Counting(), tmp_path / name, SMALL)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_changed_caption_costs_one_text(dataset, encoders, tmp_path):
    first = build(dataset, encoders, tmp_path, SMALL)
    encoders.seen.clear()
    images = torch.from_numpy(np.stack([pair.picture() for pair in dataset.pairs])).float() / 255
    hints = torch.from_numpy(np.stack([pair.control() for pair in dataset.pairs])).float() / 255
    captions = [pair.caption for pair in dataset.pairs]
    changed = from_batch(images, hints, [*captions[:4], "another"])
    second = build(changed, encoders, tmp_path, SMALL)
    assert encoders.seen == ["another"]
    assert second.manifest.data_hash != first.manifest.data_hash


def test_another_encoder_or_size_is_another_entry(dataset, encoders, tmp_path):
    build(dataset, encoders, tmp_path, SMALL)
    encoders.seen.clear()
    encoders.latent_id = "latents-2"
    build(dataset, encoders, tmp_path, SMALL)
    assert encoders.seen == ["latent"] * 5


def test_an_interrupted_caching_goes_on(dataset, encoders, tmp_path):
    encoders.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        build(dataset, encoders, tmp_path, SMALL)
    with pytest.raises(DataError, match="no finished cache"):
        Cache(tmp_path)
    again = Counting()
    cache = build(dataset, again, tmp_path, SMALL)
    assert again.seen == ["latent"] * 2 and len(cache) == 5


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty"])
def test_a_damaged_shard_is_named_and_made_anew(dataset, encoders, tmp_path, harm):
    build(dataset, encoders, tmp_path, SMALL)
    whole = files(tmp_path)
    (shard,) = tmp_path.glob("latents-*")
    raw = bytearray(shard.read_bytes())
    raw[-5] ^= 1
    shard.write_bytes({"cut": bytes(raw[:-40]), "flipped": bytes(raw), "empty": b""}[harm])
    if harm != "flipped":
        with pytest.raises(DataError, match=rf"lacks 5 of its entries .*{shard.name}"):
            Cache(tmp_path)
    said: list[str] = []
    encoders.seen.clear()
    build(dataset, encoders, tmp_path, SMALL, say=said.append)
    assert len(said) == 1 and shard.name in said[0]
    assert encoders.seen == ["latent"] * 5 and files(tmp_path) == whole


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (OSError("The paging file is too small (os error 1455)"), "paging file"),
        (RuntimeError("Couldn't open file mapping: <x>, error code: <1455>"), "paging file"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "no other program holds it"),
    ],
)
def test_a_shard_that_cannot_be_read_now_is_not_damaged(
    dataset, encoders, tmp_path, monkeypatch, error, mend
):
    """As on Windows, where memory is short or a virus scanner holds it: it stays, and the mend is named."""
    cache = build(dataset, encoders, tmp_path, SMALL)
    whole = files(tmp_path)

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(sharding, "safe_open", fail)
    for attempt in (
        lambda: build(dataset, encoders, tmp_path, SMALL),
        lambda: Cache(tmp_path),
        lambda: cache.hint(cache.manifest.examples[0]),
    ):
        with pytest.raises(DataError, match=rf"cannot be read: .*{mend}.*nothing was removed"):
            attempt()
    assert files(tmp_path) == whole


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads what is mapped from /proc")
def test_no_shard_stays_mapped(dataset, encoders, tmp_path):
    """On Windows what is mapped can neither be removed nor replaced."""
    cache = build(dataset, encoders, tmp_path, SMALL)
    held = [cache.latent(example) for example in cache.manifest.examples]
    assert held and str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_loses_nothing_that_is_written(dataset, encoders, tmp_path, monkeypatch, number):
    monkeypatch.setattr(caching, "_PER_SHARD", 2)
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 5:
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(sharding.os, "fsync", full)
    with pytest.raises(DataError, match=f"cannot be written: {os.strerror(number)}"):
        build(dataset, encoders, tmp_path, SMALL)
    assert not list(tmp_path.glob(".*"))
    kept = files(tmp_path)
    assert len(kept) == 5
    monkeypatch.setattr(sharding.os, "fsync", real)
    encoders.seen.clear()
    build(dataset, encoders, tmp_path, SMALL)
    assert 0 < len(encoders.seen) < 5
    assert kept.items() <= files(tmp_path).items()


def test_a_folder_that_cannot_be_written_is_named(dataset, encoders, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file.*cannot be written"):
        build(dataset, encoders, tmp_path / "file", SMALL)


def test_what_killed_processes_left_half_written_is_removed(dataset, encoders, tmp_path):
    old, young = (tmp_path / f".latents-{digit * 16}.safetensors.123.part" for digit in "ab")
    for part in (old, young):
        part.write_bytes(b"half")
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    build(dataset, encoders, tmp_path, SMALL)
    assert not old.exists() and young.exists()


@pytest.mark.parametrize("what", ["latent", "text"])
def test_what_an_encoder_makes_that_is_no_number_is_named_and_not_kept(dataset, encoders, tmp_path, what):
    """As ComfyUI's VAEs in half precision do of some pictures."""
    sound, calls = getattr(encoders, what), []

    def broken(given):
        calls.append(given)
        made, other = sound(given)
        return (torch.full_like(made, torch.nan), other) if len(calls) == 2 else (made, other)

    setattr(encoders, what, broken)
    named = dataset.pairs[1].name if what == "latent" else dataset.pairs[0].caption
    with pytest.raises(DataError, match=f"{named}.* no numbers"):
        build(dataset, encoders, tmp_path, SMALL)
    cache = build(dataset, Counting(), tmp_path, SMALL)
    assert all(cache.latent(example)[0].isfinite().all() for example in cache.manifest.examples)


def test_files_of_others_in_the_folder_stay_as_they_are(dataset, encoders, tmp_path):
    others = {name: b"not ours" for name in ("latents-of-mine.safetensors", ".download.part", "notes.json")}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))
    build(dataset, encoders, tmp_path, SMALL)
    assert others.items() <= files(tmp_path).items()


@pytest.mark.parametrize("content", ['{"my": "own"}', "[]", '"examples"', "no JSON"])
def test_a_manifest_that_is_another_file_is_not_written_over(dataset, encoders, tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json is no cache's.*another folder"):
        build(dataset, encoders, tmp_path, SMALL)
    assert files(tmp_path) == {"dataset.json": content.encode()} and not encoders.seen


@pytest.mark.parametrize("content", ["{", ""])
def test_a_damaged_manifest_is_named_and_made_anew(dataset, encoders, tmp_path, content):
    build(dataset, encoders, tmp_path, SMALL)
    whole = files(tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json is damaged.*Cache the data again"):
        Cache(tmp_path)
    build(dataset, encoders, tmp_path, SMALL)
    assert files(tmp_path) == whole


def test_an_annotator_makes_hints_that_fit_the_cropped_picture(encoders, tmp_path):
    images = torch.rand(1, 64, 100, 3, generator=torch.Generator().manual_seed(2))
    maker = HintMaker("inverted", lambda pictures: 1 - pictures)
    cache = build(from_batch(images), encoders, tmp_path, Preparation(64, 64, "photo", mirror=True), maker)
    plain, turned = cache.manifest.examples
    assert cache.manifest.annotator == "inverted" and turned.name == "00000 (mirrored)"
    assert plain.latent != turned.latent and plain.text == turned.text
    assert torch.equal(cache.hint(plain).flip(1), cache.hint(turned))
    assert cache.hint(plain).shape == (plain.height, plain.width, 3)
    assert (plain.original, plain.crop) == ((100, 64), (18, 0))


def test_values_of_an_annotator_beyond_black_and_white_are_black_and_white(encoders, tmp_path):
    images = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    maker = HintMaker("steep", lambda pictures: pictures * 3 - 1)
    cache = build(from_batch(images), encoders, tmp_path, SMALL, maker)
    made = cache.hint(cache.manifest.examples[0]).int()
    expected = (torch.from_numpy(from_batch(images).pairs[0].picture()).int() * 3 - 255).clamp(0, 255)
    assert (made - expected).abs().max() <= 1


def test_areas_alone_keep_their_colours_when_hints_are_scaled(encoders, tmp_path):
    """From colours that alternate, averages would be made; of a drawing, nearest pixels lose lines."""
    hints = torch.arange(128).remainder(2).expand(1, 128, 128)[..., None].expand(-1, -1, -1, 3).float()
    data = from_batch(torch.zeros(1, 128, 128, 3), hints)
    seen = {}
    for kind in (None, "lines", "areas"):
        cache = build(data, encoders, tmp_path, Preparation(64, 64, kind))
        seen[kind] = set(cache.hint(cache.manifest.examples[0]).unique().tolist())
    assert seen[None] == seen["lines"] <= {127, 128} and len(seen["areas"]) == 1
    assert seen["areas"] <= {0, 255}


def test_what_a_folder_has_of_other_preparations_is_not_taken_for_this_one(tmp_path):
    class Sampling(Counting):
        def latent(self, image):
            return image.movedim(-1, 0)[:, ::8, ::8].contiguous(), None

    images, hints = torch.rand(2, 1, 128, 160, 3, generator=torch.Generator().manual_seed(2))
    data = from_batch(images, hints)
    inverted, halved = (
        HintMaker("inverted", lambda pictures: 1 - pictures),
        HintMaker("halved", lambda pictures: pictures / 2),
    )
    ways = (
        (Preparation(64, 64), None),
        (Preparation(64, 64, "areas"), None),
        (Preparation(128, 64), None),
        (Preparation(64, 64, "photo", mirror=True), None),
        (Preparation(64, 64, "normals", mirror=True), None),
        (Preparation(64, 64, "midas_normals", mirror=True), None),
        (Preparation(64, 64, "areas", mirror=True), None),
        (Preparation(64, 64, "photo", mirror=True), inverted),
        (Preparation(64, 64, "photo", mirror=True), halved),
        (Preparation(128, 64, "photo", mirror=True), halved),
    )
    for number, (preparation, maker) in enumerate(ways):
        shared = build(data, Sampling(), tmp_path / "shared", preparation, maker)
        alone = build(data, Sampling(), tmp_path / str(number), preparation, maker)
        assert len(shared) == len(alone) == 1 + preparation.mirror
        for one, other in zip(shared.manifest.examples, alone.manifest.examples, strict=True):
            assert torch.equal(shared.latent(one)[0], alone.latent(other)[0])
            assert torch.equal(shared.hint(one), alone.hint(other))
        if preparation.mirror:
            plain, turned = shared.manifest.examples
            assert not torch.equal(shared.latent(plain)[0], shared.latent(turned)[0])
            assert not torch.equal(shared.hint(plain), shared.hint(turned))


def test_the_hash_of_the_data_changes_with_every_part_of_it(encoders, tmp_path):
    images, hints = torch.rand(2, 2, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    kinds = (
        from_batch(images, hints, ["a", "b"]),
        from_batch(images.flip(0), hints, ["a", "b"]),
        from_batch(images, hints.flip(0), ["a", "b"]),
        from_batch(images, hints, ["b", "a"]),
        from_batch(images.flip(0), hints.flip(0), ["b", "a"]),
    )
    found = [build(data, encoders, tmp_path, SMALL).manifest.data_hash for data in (*kinds, kinds[0])]
    assert len(set(found)) == len(kinds) and found[0] == found[-1]


def test_the_largest_pictures_are_those_of_most_pixels_by_height_and_width(tmp_path):
    class Sampling(Counting):
        def latent(self, image):
            return image.movedim(-1, 0)[:, ::8, ::8].contiguous(), None

    sizes = {"square": (192, 192), "wide": (96, 288), "tall": (288, 96)}
    pairs = {
        name: dataclasses.replace(pair, name=name)
        for name, size in sizes.items()
        for pair in from_batch(torch.zeros(1, *size, 3), torch.zeros(1, *size, 3)).pairs
    }
    for names, largest in (
        (("wide",), (128, 256)),
        (("tall",), (256, 128)),
        (("wide", "square", "tall"), (192, 192)),
    ):
        chosen = Dataset(tuple(pairs[name] for name in names))
        cache = build(chosen, Sampling(), tmp_path / names[0], Preparation(192, 64))
        assert cache.manifest.largest == largest


@pytest.mark.parametrize("width", [128, 129, 130, 193])
def test_a_mirrored_pair_is_cut_alike(encoders, tmp_path, width):
    """The same pixels as picture and hint stay the same, where the middle is half a pixel off as well."""
    images = torch.rand(1, 64, width, 3, generator=torch.Generator().manual_seed(2))
    preparation = Preparation(64, 64, "photo", mirror=True)
    (pair,) = from_batch(images, images).pairs
    made = list(caching._prepared(pair, preparation, [(64, 64)], "latents-1", None))
    assert [one.mirrored for one in made] == [False, True]
    for one in made:
        assert np.array_equal(one.image(), one.control())


def test_mirroring_must_know_what_the_hints_show():
    with pytest.raises(DataError, match="mirroring must know"):
        Preparation(mirror=True)
    with pytest.raises(DataError, match="choose one of lines"):
        Preparation(hint_kind="edges")  # type: ignore[arg-type]


def test_the_mini_encoders_encode_as_the_mini_networks_do(tmp_path):
    encoders = MiniEncoders(REPO / "demo" / "weights")
    for kind in ("images", "hints"):
        (tmp_path / kind).mkdir()
        Image.open(REPO / "workflows" / "inputs" / "scene.png").save(tmp_path / kind / "a.png")
    with torch.inference_mode():
        mean, std = encoders.latent(torch.rand(128, 128, 3))
        context, pooled = encoders.text("a red dancer")
    scene = torch.from_numpy(read_picture(tmp_path / "images" / "a.png")[:128, :128]).float() / 255
    again = encoders.decode(encoders.latent(scene)[0].detach()[None] * encoders.latent_scale)[0]
    assert (again - scene).abs().mean() < 0.05
    assert mean.shape == (4, 16, 16) and std is None and pooled is None
    assert context.shape == (20, 64) and encoders.latent_scale is not None
    assert len(build(read_folder(tmp_path), encoders, tmp_path / "cache", Preparation(128, 64))) == 1


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(0, 2**63),
    st.integers(0, 5),
)
def test_in_a_round_every_example_counts_alike_in_batches_of_one_bucket(buckets, batch, seed, number):
    made = batches_of_round(buckets, batch, seed, number)
    assert made.shape == (len(buckets), batch)
    assert torch.equal(made, batches_of_round(buckets, batch, seed, number))
    assert Counter(made.flatten().tolist()) == dict.fromkeys(range(len(buckets)), batch)
    assert all(len({buckets[i] for i in indices}) == 1 for indices in made.tolist())


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 9))
def test_of_one_bucket_everything_is_seen_before_anything_comes_again(count, batch, seed):
    seen = batches_of_round([0] * count, batch, seed, 0).flatten().tolist()
    for start in range(0, len(seen), count):
        assert sorted(seen[start : start + count]) == list(range(count))


def test_each_pass_through_a_bucket_is_in_another_order():
    passes = batches_of_round("a" * 20, 4, 0, 0).flatten().view(4, 20).tolist()
    assert len({tuple(order) for order in passes}) == 4


def test_a_buckets_batches_are_spread_over_the_round():
    made = batches_of_round("a" * 300 + "b" * 100, 4, 0, 0)
    places = (made[:, 0] >= 300).nonzero().flatten()
    assert len(places) == 100 and (places.diff() <= 9).all()
    assert places[0] <= 9 and places[-1] >= 390


def test_rounds_and_seeds_differ_in_order():
    orders = [batches_of_round("a" * 20, 4, seed, number) for seed in (0, 1) for number in (0, 1)]
    assert len({str(order) for order in orders}) == 4


def test_mixed_seeds_depend_on_every_number_and_their_order():
    assert len({mixed(1, 2), mixed(2, 1), mixed(1, 2, 0), mixed(1), mixed(1, 3)}) == 5
    assert 0 <= mixed(2**63, 5) < 2**63
