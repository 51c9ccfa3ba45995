"""Batches of a cache: pure in their number and seed, resampled, with captions dropped when they are drawn."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from cnet_core.control.hint import luminance
from cnet_core.errors import BaseMismatchError, DataError
from cnet_core.networks.config import UNetConfig
from cnet_core.training.cache import Cache, Preparation, build
from cnet_core.training.data import Dataset, from_batch
from cnet_core.training.source import CachedSource, size_condition

BASE = UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=6, num_heads=2, in_channels=3)
XL = dataclasses.replace(BASE, adm_in_channels=5 + 6 * 256)


class Encoders:
    """A latent of the picture's own colours with a spread, and texts as long as their captions."""

    latent_id = text_id = "test"
    latent_scale: float | None = 0.5

    def latent(self, image):
        mean = image.movedim(-1, 0)[:, ::8, ::8].contiguous()
        return mean, torch.full_like(mean, 0.25)

    def text(self, caption):
        return torch.full((1 + len(caption), 6), float(len(caption))), torch.full((5,), float(len(caption)))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Seven squares and three wide pictures."""
    generator = torch.Generator().manual_seed(1)
    squares = from_batch(torch.rand(7, 64, 64, 3, generator=generator), torch.zeros(7, 64, 64, 3), ["a"])
    wide = from_batch(torch.rand(3, 64, 192, 3, generator=generator), torch.ones(3, 64, 192, 3), ["bcd"])
    named = [dataclasses.replace(pair, name=f"wide {pair.name}") for pair in wide.pairs]
    return build(Dataset((*squares.pairs, *named)), Encoders(), tmp_path, Preparation(128, 64))


def test_a_batch_depends_on_nothing_but_its_arguments(cache):
    first, second = CachedSource(cache, BASE), CachedSource(Cache(cache.folder), BASE)
    second.batch(9, 2, 5, 0.5)
    for index in (7, 0, 3):
        one, other = first.batch(index, 2, 5, 0.5), second.batch(index, 2, 5, 0.5)
        assert torch.equal(one.latents, other.latents) and torch.equal(one.context, other.context)
        assert (one.names, one.dropped) == (other.names, other.dropped)
    assert first.batch(0, 2, 6, 0.5).names != first.batch(0, 2, 5, 0.5).names


def test_every_example_counts_alike_in_batches_of_one_size(cache):
    source = CachedSource(cache, BASE)
    batches = [source.batch(i, 2, 0, 0.0) for i in range(10)]
    assert Counter(name for batch in batches for name in batch.names) == {
        example.name: 2 for example in cache.manifest.examples
    }
    assert {batch.latents.shape[1:] for batch in batches} == {(3, 16, 16), (3, 8, 24)}
    for batch in batches:
        assert batch.hints.dtype == torch.uint8
        assert batch.hints.shape == (2, 3, 8 * batch.latents.shape[2], 8 * batch.latents.shape[3])


def test_latents_are_drawn_anew_around_their_mean_and_scaled(cache):
    source = CachedSource(cache, BASE, latent_scale=2.0)
    drawn = {}
    for index in range(200):
        batch = source.batch(index, 1, 0, 0.0)
        drawn.setdefault(batch.names[0], []).append(batch.latents[0])
    example = cache.manifest.examples[0]
    values = torch.stack(drawn[example.name]) - 2 * cache.latent(example)[0]
    assert not torch.equal(*values[:2])
    assert abs(values.mean()) < 0.02 and abs(values.std() - 0.5) < 0.02
    assert CachedSource(cache, BASE).scale == 0.5


def test_captions_are_dropped_at_their_rate_when_they_are_drawn(cache):
    source = CachedSource(cache, BASE)
    empty = cache.text(cache.manifest.empty)[0][0]
    fate: dict[str, set[bool]] = {}
    for index in range(60):
        batch = source.batch(index, 2, 0, 0.5)
        for name, dropped, context in zip(batch.names, batch.dropped, batch.context, strict=True):
            fate.setdefault(name, set()).add(dropped)
            assert torch.equal(context[0], empty) == dropped
    assert all(seen == {True, False} for seen in fate.values())
    assert not any(source.batch(i, 2, 0, 0.0).dropped[0] for i in range(20))
    assert all(source.batch(i, 2, 0, 1.0).dropped[0] for i in range(20))


def test_each_row_of_a_batch_draws_its_own_latent_and_its_captions_fate(cache):
    source = CachedSource(cache, BASE)
    batches = [source.batch(index, 2, 0, 0.5) for index in range(20)]
    named = {example.name: example for example in cache.manifest.examples}
    for batch in batches:
        means = torch.stack([cache.latent(named[name])[0] for name in batch.names])
        one, other = batch.latents - 0.5 * means
        assert not torch.allclose(one, other, atol=0.05)
    assert {batch.dropped for batch in batches} >= {(True, False), (False, True)}


def test_the_next_round_is_in_another_order(cache):
    source = CachedSource(cache, BASE)
    first, second = ([source.batch(start + i, 2, 0, 0.0).names for i in range(10)] for start in (0, 10))
    assert first != second


def test_a_text_is_repeated_to_the_length_of_the_others(tmp_path):
    """Zeros in place of it would take their share of the attention."""

    class Counted(Encoders):
        def text(self, caption):
            """As CLIP does, the empty text is no zeros."""
            length = 2 + len(caption)
            return torch.arange(1.0, 1 + length)[:, None].expand(length, 6).contiguous(), None

    data = from_batch(torch.zeros(4, 64, 64, 3), torch.zeros(4, 64, 64, 3), ["four"])
    source = CachedSource(build(data, Counted(), tmp_path, Preparation(64, 64)), BASE)
    batches = [source.batch(index, 4, 0, 0.5) for index in range(8)]
    both = [batch for batch in batches if 0 < sum(batch.dropped) < 4]
    assert both
    for batch in both:
        for dropped, context in zip(batch.dropped, batch.context, strict=True):
            assert context[:, 0].tolist() == ([1, 2] * 3 if dropped else [1, 2, 3, 4, 5, 6])


def test_texts_of_other_lengths_go_together_with_the_empty_one_only(tmp_path):
    """Else a few captions of several lengths are repeated to their least common multiple."""
    generator = torch.Generator().manual_seed(1)
    captions = [caption for caption in ("a", "bcde", "bcdefg") for _ in range(4)]
    data = from_batch(torch.rand(12, 64, 64, 3, generator=generator), torch.zeros(12, 64, 64, 3), captions)
    source = CachedSource(build(data, Encoders(), tmp_path, Preparation(128, 64)), BASE)
    batches = [source.batch(i, 4, 0, 0.5) for i in range(24)]
    assert {batch.context.shape[1] for batch in batches} <= {1, 2, 5, 7} and source.cache.tokens == 7
    whole = [batch.context.shape[1] for batch in batches if not any(batch.dropped)]
    assert set(whole) <= {2, 5, 7}


def test_grey_hints(cache):
    assert CachedSource(cache, BASE, hint_channels=1).batch(0, 2, 0, 0.0).hints.shape[1] == 1
    with pytest.raises(DataError, match="4 hint channels"):
        CachedSource(cache, BASE, hint_channels=4)


def test_a_grey_hint_is_the_same_in_one_channel_and_in_three(tmp_path):
    ramp = torch.arange(64 * 64).remainder(256).view(64, 64, 1).expand(64, 64, 3).float() / 255
    noise = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    data = from_batch(torch.zeros(2, 64, 64, 3), torch.stack([ramp, noise]), ["a"])
    cache = build(data, Encoders(), tmp_path, Preparation(64, 64))
    grey, colours = CachedSource(cache, BASE, hint_channels=1), CachedSource(cache, BASE)
    for index in range(2):
        one, three = grey.batch(index, 1, 0, 0.0), colours.batch(index, 1, 0, 0.0)
        assert one.names == three.names
        if one.names == (cache.manifest.examples[0].name,):
            assert torch.equal(one.hints.expand(-1, 3, -1, -1), three.hints)
        assert (one.hints - 255 * luminance(three.hints / 255)).abs().max() <= 0.501


def test_vectors_tell_sdxl_the_sizes(cache):
    batch = CachedSource(cache, XL).batch(0, 2, 0, 0.0)
    example = next(e for e in cache.manifest.examples if e.name == batch.names[0])
    sizes = (*example.original[::-1], *example.crop[::-1], example.height, example.width)
    pooled = cache.text(example.text)[1]
    assert batch.y is not None and torch.equal(batch.y[0], size_condition(pooled, sizes))
    assert batch.y.shape == (2, 5 + 6 * 256)


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_vectors_are_those_of_diffusers_with_height_before_width(tmp_path, drop):
    """Its add_time_ids: the original's size, the crop's top and left, the target's size; after the text."""
    expected = {
        "wide": ((80, 270), (0, 12), (64, 192)),
        "tall": ((270, 80), (12, 0), (192, 64)),
        "square": ((150, 160), (0, 4), (128, 128)),
    }
    pairs = [
        dataclasses.replace(pair, name=name)
        for name, (size, _, _) in expected.items()
        for pair in from_batch(torch.zeros(1, *size, 3), torch.zeros(1, *size, 3), ["abc"]).pairs
    ]
    source = CachedSource(build(Dataset(tuple(pairs)), Encoders(), tmp_path, Preparation(128, 64)), XL)
    seen = set()
    for index in range(3):
        batch = source.batch(index, 2, 0, drop)
        assert batch.y is not None
        for name, vector in zip(batch.names, batch.y, strict=True):
            numbers = torch.tensor(expected[name]).flatten()
            embedded = get_timestep_embedding(numbers, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
            # The dropped caption's pooled text is dropped with it.
            torch.testing.assert_close(vector[:5], torch.full((5,), 0.0 if drop else 3.0))
            torch.testing.assert_close(vector[5:], embedded.flatten(), rtol=0, atol=1e-4)
            seen.add(name)
    assert seen == {*expected}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"context_dim": 768}, "6 channels of text, and the base model reads 768"),
        ({"in_channels": 4}, "3 latent channels"),
        ({"adm_in_channels": 2816}, "5 channels of pooled text, and the base model reads 1280"),
    ],
)
def test_a_cache_of_another_family_is_refused(cache, change, what):
    with pytest.raises(BaseMismatchError, match=what):
        CachedSource(cache, dataclasses.replace(BASE, **change))


def test_a_cache_that_knows_no_scale_asks_for_it(cache):
    cache.manifest = dataclasses.replace(cache.manifest, latent_scale=None)
    with pytest.raises(DataError, match=r"--encoders"):
        CachedSource(cache, BASE)
    assert CachedSource(cache, BASE, 0.13025).scale == 0.13025


def test_facts_are_what_the_trained_file_says_of_its_data(cache):
    source = CachedSource(cache, BASE)
    assert source.facts == {"resolution": "128", "pairs": "10"}
    assert len(source) == 10 and source.data_hash == cache.manifest.data_hash
