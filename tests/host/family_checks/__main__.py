"""Run by a host's own interpreter in the host's folder: python family_checks PACK RESULTS.json [FAMILY ...].

Writes for each family and check "ok", "-" where a check means nothing, or what went wrong.
"""

import importlib
import json
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(Path.cwd()), *(p for p in sys.path if Path(p).resolve() != HERE)]
from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True
import comfy.controlnet  # noqa: E402
import comfy.hooks  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import folder_paths  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402

sys.path.append(str(HERE))
from packs import load_pack  # noqa: E402
from tiny import CPU, FAMILIES, SD15, Family, TinyVAE, _All, sd15_control  # noqa: E402

# The host's own nodes ask for its server only when they show pictures.
import nodes as host_nodes  # noqa: E402

COND, UNCOND = 0, 1


class Spy(comfy.controlnet.ControlBase):
    """Says nothing, and remembers what the host asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple] = []

    def copy(self) -> "Spy":
        return self

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.asked.append((x_noisy, t, dict(cond), batched_number, dict(transformer_options)))


class NotMeantError(Exception):
    pass


class Bench:
    """One family: its control and base, and ways to draw with them and to ask for residuals."""

    def __init__(self, family: Family, pack: dict[str, Any], folder: Path):
        self.family, self.pack = family, pack
        self.model = family.model()
        self.control = family.control(lambda state: self._load(state, folder))
        assert isinstance(self.control, comfy.controlnet.ControlBase), self.control
        self.vae = None if family.vae is None else TinyVAE(family.vae[0], len(family.vae) > 1)
        self.prompts = {"positive": family.prompt(1), "negative": family.prompt(2)}
        # Pictures of the base's own size: eight pixels to a latent, in Cascade 32.
        self.ratio = 32 if family.name == "cascade" else 8
        self.hint = self.hints(1)
        self._calls: dict[Any, tuple] = {}

    def _load(self, state: dict[str, torch.Tensor], folder: Path) -> Any:
        if not self.family.by_node:
            return comfy.controlnet.load_controlnet_state_dict(state)
        from safetensors.torch import save_file

        name = f"{self.family.name}.safetensors"
        save_file(state, folder / name)
        return self.node("CNetLoadControlNet", control_net_name=name)

    def node(self, name: str, **inputs: Any) -> Any:
        outputs = self.pack[name].execute(**inputs).args
        return outputs[0] if len(outputs) == 1 else outputs

    def hints(self, count: int, seed: int = 5) -> torch.Tensor:
        height, width = (side * self.ratio for side in self.family.latent[-2:])
        return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))

    def ours(self, prompts: dict | None = None, **settings: Any) -> dict:
        wanted = {
            "control_net": self.control, "image": self.hint, "vae": self.vae, "strength": 1.0,
            "start_percent": 0.0, "end_percent": 1.0, **settings,
        }  # fmt: skip
        out = self.node("CNetApply", **(prompts or self.prompts), **wanted)
        return dict(zip(("positive", "negative"), out, strict=True))

    def hosts(self, prompts: dict | None = None, **settings: Any) -> dict:
        wanted = {
            "control_net": self.control, "image": self.hint, "vae": self.vae, "strength": 1.0,
            "start_percent": 0.0, "end_percent": 1.0, **settings,
        }  # fmt: skip
        out = host_nodes.ControlNetApplyAdvanced().apply_controlnet(**(prompts or self.prompts), **wanted)
        return dict(zip(("positive", "negative"), out, strict=True))

    def unit(self, **changes: Any) -> Any:
        always = {"control_net": self.control, "image": self.hint, "vae": self.vae}
        times = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        return self.node("CNetUnit", **{**always, **times, **changes})

    def merged(self, mode: str, *units: Any, **options: Any) -> dict:
        """Units that are made, or what they are made with."""
        slots = {f"unit{i}": self.unit(**u) if isinstance(u, dict) else u for i, u in enumerate(units)}
        out = self.node("CNetMerge", **self.prompts, units=slots, mode={"mode": mode, **options})
        return dict(zip(("positive", "negative"), out, strict=True))

    def draw(self, prompts: dict, batch: int = 1, steps: int = 2, model: Any = None) -> torch.Tensor:
        shape = (batch, *self.family.latent)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(9))
        return comfy.sample.sample(
            model or self.model, noise, steps, 3.0, "euler", "simple", prompts["positive"],
            prompts["negative"], torch.zeros(shape), denoise=0.6, disable_pbar=True, seed=1,
        )  # fmt: skip

    def asked(self, batch: int) -> tuple:
        """A question of the host's in the middle of sampling `batch` latents."""
        if batch not in self._calls:
            spy = Spy()
            held = {k: [[t, {**o, "control": spy}] for t, o in v] for k, v in self.prompts.items()}
            self.draw(held, batch)
            self._calls[batch] = spy.asked[1]
        return self._calls[batch]

    def answer(
        self, prompts: dict, batch: int = 1, frames: list[int] | None = None, control: Any = None
    ) -> Any:
        """A control's answer to that question, or to the one about a context window of frames."""
        control = control or prompts["positive"][0][1]["control"]
        model = self.model.model
        model.current_patcher = self.model
        control.pre_run(model, model.model_sampling.percent_to_sigma)
        x, t, cond, chunks, options = self.asked(batch)
        # Some networks write into the text that they are given.
        cond = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in cond.items()}
        options = dict(options)
        if frames is not None:
            rows = [c * batch + f for c in range(chunks) for f in frames]
            cond = {
                k: v[rows] if isinstance(v, torch.Tensor) and v.shape[:1] == x.shape[:1] else v
                for k, v in cond.items()
            }
            x, t = x[rows], t[rows]
            options["context_window"] = SimpleNamespace(dim=0, index_list=frames, total_frames=batch)
        return control.get_control(x, t, cond, chunks, options)

    def count_runs(self) -> tuple[list[int], Any]:
        """Rows of each forward pass of the control's network, and how to stop counting."""
        net = getattr(self.control, "control_model", None)
        rows: list[int] = []
        if net is None:
            raise NotMeantError
        handle = net.register_forward_pre_hook(
            lambda _module, inputs, named: rows.append(named["x"].shape[0]), with_kwargs=True
        )
        return rows, handle


def entries(answer: dict) -> list[torch.Tensor]:
    return [t for place in ("input", "output", "middle") for t in answer[place] if t is not None]


def same(got: Any, expected: Any, tolerance: float = 0.0) -> None:
    got = got if isinstance(got, list) else [got]
    expected = expected if isinstance(expected, list) else [expected]
    assert len(got) == len(expected), f"{len(got)} tensors, expected {len(expected)}"
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        a, b = torch.broadcast_tensors(a, b)
        worst = float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
        assert worst <= tolerance, f"tensor {i} {tuple(a.shape)} differs by {worst:.2e}"


def differs(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.isfinite().all() and float((a - b).abs().max()) > 1e-3, "the control does nothing"


def loaded(models: list) -> list:
    """Those that the host has loaded now."""
    present = comfy.model_management.loaded_models()
    return [model for model in models if any(model.is_clone(other) for other in present)]


# Checks


def plain_equals_the_hosts(b: Bench) -> None:
    for settings in ({}, {"strength": 0.6, "end_percent": 0.7}):
        theirs = b.draw(b.hosts(**settings))
        differs(theirs, b.draw(b.prompts))
        same(b.draw(b.ours(**settings)), theirs, 1e-5)
    same(b.draw(b.ours(), batch=2), b.draw(b.hosts(), batch=2), 1e-5)


def an_inpaint_hint_is_handed_on(b: Bench) -> None:
    """-1 reaches a network that reads pixels, under the host's apply node and ours."""
    if b.vae is not None:
        raise NotMeantError
    hint = b.hint.clone()
    hint[:, : hint.shape[1] // 2] = -1
    theirs = b.draw(b.hosts(image=hint))
    differs(theirs, b.draw(b.hosts(image=hint.clamp(min=0))))
    same(b.draw(b.ours(image=hint)), theirs, 1e-5)


def precision_reaches_the_network(b: Bench) -> None:
    """Of families that the host loads for our node; what cannot act is named in the log."""
    if not b.family.by_node:
        raise NotMeantError
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        for settings in (
            {"precision": "bf16"},
            {"global_average_pooling": "on", "compile": True, "overlap": True},
        ):
            with _All(b.family.patches()):
                control = b.node(
                    "CNetLoadControlNet", control_net_name=f"{b.family.name}.safetensors", **settings
                )
            net = getattr(control, "control_model", None) or control.t2i_model
            found = {p.dtype for p in net.parameters()}
            if "precision" in settings:
                # The host chooses for two; of another, layers cannot compute in what a CPU computes in.
                acts = b.family.name not in ("sd35", "cascade", "hunyuan_dit")
                assert (torch.bfloat16 in found) == acts, found
                assert [message.split(": ")[1].split()[0] for message in told] == ["precision"] * (not acts)
                if acts:
                    drawn, exact = b.draw(b.ours(control_net=control)), b.draw(b.ours())
                    same(drawn, exact, 0.1)
            else:
                assert torch.bfloat16 not in found
                named = [message.split(": ")[1].split()[0] for message in told]
                assert named == ["global_average_pooling", "compile", "overlap"], told
            told.clear()
    finally:
        logging.getLogger().removeHandler(handler)


def a_file_with_a_gap_is_refused(b: Bench) -> None:
    """The host's loader only logs what is missing, and leaves chance numbers there."""
    if not b.family.by_node:
        raise NotMeantError
    name = f"{b.family.name}.safetensors"
    path = folder_paths.get_full_path("controlnet", name)
    state = safetensors.torch.load_file(path)
    inner = [key for key in state if "blocks.0." in key and key.endswith("weight") and state[key].ndim == 2]
    if b.family.name == "cascade" or not inner:
        # Its loader stops by itself.
        raise NotMeantError
    del state[inner[-1]]
    gap = f"gap_{name}"
    safetensors.torch.save_file(state, Path(path).with_name(gap))
    try:
        with _All(b.family.patches()):
            b.node("CNetLoadControlNet", control_net_name=gap)
    except ValueError as refusal:
        assert type(refusal).__name__ == "CheckpointError", refusal
    else:
        raise AssertionError(f"{inner[-1]} is missed by nobody")


def silence_is_absence(b: Bench) -> None:
    bare = b.draw(b.prompts)
    assert b.ours(strength=0.0) == b.prompts
    assert b.ours(mask=torch.zeros(1, 16, 16)) == b.prompts
    quiet = b.node("CNetKeyframe", percent=0.0, strength=1.0, interpolation="hold", previous=None)
    quiet = b.node("CNetKeyframe", percent=0.001, strength=0.0, interpolation="hold", previous=quiet)
    inactive = [b.ours(schedule=quiet), b.ours(start_percent=0.0, end_percent=0.001)]
    inactive.append(b.merged("sum", {"end_percent": 0.001}, {"schedule": quiet}))
    networks = b.control.get_models()
    for prompts in inactive:
        for network in networks:
            comfy.model_management.unload_model_and_clones(network)
        try:
            rows, handle = b.count_runs()
        except NotMeantError:
            rows, handle = [], None
        same(b.draw(prompts), bare)
        if handle:
            handle.remove()
        assert rows == [], rows
        assert not loaded(networks)
    b.draw(b.ours(start_percent=0.5))
    assert loaded(networks) == networks


def a_half_mask_acts_on_its_half(b: Bench) -> None:
    whole = entries(b.answer(b.ours()))
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    half = entries(b.answer(b.ours(mask=mask)))
    assert len(half) == len(whole)
    rows, columns = b.family.latent[-2:]
    for part, all_of in zip(half, whole, strict=True):
        part, all_of = torch.broadcast_tensors(part, all_of)
        if part.ndim == 3:
            part, all_of = (t.unflatten(1, (rows // 2, columns // 2)).movedim(-1, 1) for t in (part, all_of))
        middle = part.shape[2] // 2
        if part.shape[2] % 2:
            continue
        assert torch.equal(part[:, :, :middle], all_of[:, :, :middle]) and part[:, :, :middle].any()
        assert not part[:, :, middle:].any()
    differs(b.draw(b.ours(mask=mask)), b.draw(b.ours()))


def each_block_has_its_weight(b: Bench) -> None:
    answer = b.answer(b.ours())
    whole = entries(answer)
    values = [i / 4 for i in range(len(whole))]
    weights = b.node("CNetBlockWeights", preset={"preset": "custom", "weights": str(values).strip("[]")})
    maps = [t for t in answer["input"] if t is not None and t.ndim == 4]
    if maps:
        # Lists of maps begin with the deepest block. Cascade's are of one size.
        assert maps[0].shape[-1] < maps[-1].shape[-1] or b.family.name == "cascade"
        values = [*reversed(values[: len(maps)]), *values[len(maps) :]]
    prompts = b.ours(blocks=weights)
    weighed = entries(b.answer(prompts))
    kept = len(weighed) == len(whole)
    expected = [t * w for t, w in zip(whole, values, strict=True) if w or kept]
    same(weighed, expected, 1e-6)
    # The block of weight 0 too is one that the base can read.
    differs(b.draw(prompts), b.draw(b.prompts))


def without_uncond_gain_only_the_cond_half_runs(b: Bench) -> None:
    whole = entries(b.answer(b.ours()))
    sides = b.asked(1)[4]["cond_or_uncond"]
    assert sorted(sides) == [COND, UNCOND], sides
    half = entries(b.answer(b.ours(uncond_gain=0.0)))
    for part, all_of in zip(half, whole, strict=True):
        for row, side in enumerate(sides):
            if side == UNCOND:
                assert not part[row].any()
            else:
                same(part[row], all_of.expand_as(part)[row], 1e-5)
    rows, handle = b.count_runs()
    b.draw(b.ours(uncond_gain=0.0))
    handle.remove()
    assert set(rows) == {1}, rows


def a_vae_hint_is_encoded_once(b: Bench) -> None:
    if b.vae is None:
        raise NotMeantError
    b.hint = b.hints(1, seed=77)
    b.vae.encoded = 0
    prompts = b.ours()
    first = b.draw(prompts)
    same(b.draw(prompts), first)
    assert b.vae.encoded == 1, f"encoded {b.vae.encoded} times in two queues"
    other = {kind: b.family.prompt(seed) for kind, seed in (("positive", 8), ("negative", 2))}
    b.draw(b.ours(other))
    assert b.vae.encoded == 1, "encoded again for another prompt"
    same(b.draw(b.ours()), first)
    b.draw(b.ours(image=1 - b.hint))
    assert b.vae.encoded == 2, "another hint was not encoded"
    b.hint = b.hints(1)


def every_window_gets_its_frames(b: Bench) -> None:
    hints = b.hints(4)
    control = b.ours(image=hints)
    whole = entries(b.answer(control, batch=4))
    kept = control["positive"][0][1]["control"]
    for frames in ([0, 1, 2], [2, 3], [3, 0], [0, 1, 2]):
        seen = entries(b.answer(control, batch=4, frames=frames, control=kept))
        rows = [c * 4 + f for c in range(2) for f in frames]
        same(seen, [t[rows] for t in whole], 2e-5)


def sampling_in_windows_is_sampling_frame_by_frame(b: Bench) -> None:
    """Networks look at each latent by itself, so windows and batches must give the same."""
    if len(b.family.latent) > 3:
        raise NotMeantError
    windows = importlib.import_module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    for anchor in (False, True):
        model = windows.execute(
            b.model, 2, 1, "standard_static", 1, False, "flat", 0, False,
            cond_retain_index_list="", latent_retain_index_list="", causal_window_fix=anchor,
        ).args[0]  # fmt: skip
        strengths = b.node("CNetFrameStrengths", strengths="1 0.8 0.6 0.4")
        prompts = b.ours(image=b.hints(4), schedule=strengths)
        same(b.draw(prompts, batch=4, model=model), b.draw(prompts, batch=4), 1e-4)


def a_clone_for_another_device_says_the_same(b: Bench) -> None:
    if b.family.name == "sd15_control_lora":
        raise NotMeantError
    prompts = b.ours()
    control = prompts["positive"][0][1]["control"]
    expected = entries(b.answer(prompts))
    device = torch.device("cpu", 0)
    clone = control.deepclone_multigpu(device, autoregister=True)
    assert control.get_instance_for_device(device) is clone
    same(entries(b.answer(prompts, control=clone)), expected)
    assert len(control.get_models()) == 2 * len(clone.get_models())
    control.cleanup()


def chains_with_the_hosts_in_both_orders(b: Bench) -> None:
    one, two = {"strength": 0.7}, {"image": 1 - b.hint, "strength": 0.5}
    theirs = b.draw(b.hosts(b.hosts(**one), **two))
    same(b.draw(b.ours(b.hosts(**one), **two)), theirs, 1e-5)
    same(b.draw(b.hosts(b.ours(**one), **two)), theirs, 1e-5)
    same(b.draw(b.ours(b.ours(**one), **two)), theirs, 1e-5)


def the_hosts_union_type_is_kept(b: Bench) -> None:
    if b.family.name != "flux_union":
        raise NotMeantError
    node = importlib.import_module("comfy_extras.nodes_controlnet").SetUnionControlNetType
    pictures = []
    refused(
        lambda: b.node("CNetUnionHints", control_net=b.control, canny=b.hint), "Set Union ControlNet Type"
    )
    for kind in ("auto", "depth", "tile"):
        control = node.execute(b.control, kind).args[0]
        theirs = b.draw(b.hosts(control_net=control))
        same(b.draw(b.ours(control_net=control)), theirs, 1e-5)
        assert not any(torch.equal(theirs, other) for other in pictures), kind
        pictures.append(theirs)
    unknown = node.execute(b.control, "repaint").args[0]
    refused(lambda: b.ours(control_net=unknown), "no type repaint", "7 types", "Choose one")


def another_kind_of_base_is_refused(b: Bench) -> None:
    name = "sd3" if b.family.name.startswith("sd15") else "sd15_controlnet"
    (other,) = (family for family in FAMILIES if family.name == name)
    stranger = SimpleNamespace(model=other.model().model)
    for prompts in (b.ours(), b.merged("sum", {}, {"strength": 0.5})):
        control = prompts["positive"][0][1]["control"]
        sampling, kind = stranger.model.model_sampling, type(stranger.model).__name__
        refused(
            lambda: control.pre_run(stranger.model, sampling.percent_to_sigma),  # noqa: B023
            kind,
            "Load a ControlNet",
        )


def another_size_is_refused_at_the_node(b: Bench) -> None:
    """As its tensors tell it: the widths of its blocks, and of the prompts that it reads."""
    if not b.family.name.startswith("sd15"):
        raise NotMeantError
    wide = comfy.controlnet.ControlNet(sd15_control(4, {**SD15, "model_channels": 64}), load_device=CPU)
    refused(lambda: b.merged("sum", {}, {"control_net": wide}), "unit0", "unit1", "same base model")
    if b.family.name == "sd15_controlnet":
        longer = {k: [[torch.cat([t, t], -1), o] for t, o in v] for k, v in b.prompts.items()}
        refused(lambda: b.ours(longer), "width 8", "width 16", "Load a ControlNet")


def refused(do: Any, *words: str) -> None:
    try:
        do()
    except ValueError as refusal:
        assert type(refusal).__name__ in ("BaseMismatchError", "ControlError"), refusal
        assert all(word in str(refusal) for word in words), refusal
    else:
        raise AssertionError("nothing was refused")


def one_unit_is_plain_apply_in_every_mode(b: Bench) -> None:
    plain = entries(b.answer(b.ours()))
    for mode in ("sum", "average", "normalised", "strongest", "priority", "regions"):
        options = {"softness": 0.2} if mode == "strongest" else {}
        same(entries(b.answer(b.merged(mode, {}, **options))), plain)


def two_units_merge(b: Bench) -> None:
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    units = {"mask": mask}, {"image": 1 - b.hint, "mask": 1 - mask, "strength": 0.5}
    chain = b.draw(b.ours(b.ours(**units[0]), **units[1]))
    same(b.draw(b.merged("sum", *units)), chain, 1e-5)
    # One unit in two slots is two.
    unit = b.unit(strength=0.5)
    same(b.draw(b.merged("sum", unit, unit)), b.draw(b.merged("sum", {"strength": 0.5}, {"strength": 0.5})))
    for mode in ("average", "normalised", "strongest", "priority", "regions"):
        options = {"softness": 0.2} if mode == "strongest" else {}
        drawn = b.draw(b.merged(mode, *units, **options), batch=2)
        assert drawn.isfinite().all(), mode


def strengths_go_by_time_and_frame(b: Bench) -> None:
    curve = lambda p: b.node("CNetKeyframe", percent=0.0, strength=p, interpolation="hold", previous=None)  # noqa: E731
    same(entries(b.answer(b.ours(schedule=curve(0.25)))), entries(b.answer(b.ours(strength=0.25))), 1e-6)
    frames = b.node("CNetFrameStrengths", strengths="1 0 0.25")
    whole = entries(b.answer(b.ours(), batch=3))
    weak = entries(b.answer(b.ours(strength=0.25), batch=3))
    for part, full, quarter in zip(
        entries(b.answer(b.ours(schedule=frames), batch=3)), whole, weak, strict=True
    ):
        full, quarter = full.expand_as(part), quarter.expand_as(part)
        for row in range(6):
            expected = (full[row], torch.zeros_like(part[row]), quarter[row])[row % 3]
            same(part[row], expected, 1e-6)


def a_lora_hook_stays_when_a_network_is_loaded_late(b: Bench) -> None:
    """A control that depends on the time is loaded amid the first step, when the hook is in the UNet."""
    blocks = getattr(b.model.model.diffusion_model, "input_blocks", None)
    if blocks is None:
        raise NotMeantError
    change = torch.randn(blocks[0][0].weight.shape, generator=torch.Generator().manual_seed(3)) * 0.1
    hooks = comfy.hooks.create_hook_lora({"diffusion_model.input_blocks.0.0.diff": change}, 1.0, 0.0)
    hooked = {k: comfy.hooks.set_hooks_for_conditioning(v, hooks) for k, v in b.prompts.items()}
    full = b.node("CNetKeyframe", percent=0.0, strength=1.0, interpolation="hold", previous=None)
    before = b.draw(b.ours(hooked))
    same(b.draw(b.ours(hooked, schedule=full)), before)
    differs(before, b.draw(b.ours()))


def an_economy_asks_the_network_less(b: Bench) -> None:
    """And draws nearly the same: alone, in a merge, and after the host's own node in a chain."""
    steps = 10
    rows, handle = b.count_runs()
    try:
        for controlled in (
            b.ours,
            lambda economy: b.merged("sum", {"economy": economy}),
            lambda economy: b.ours(b.hosts(strength=0.3), economy=economy),
        ):
            asked, drawn = {}, {}
            for economy in ("exact", "light", "strong"):
                rows.clear()
                drawn[economy] = b.draw(controlled(economy=economy), steps=steps)
                asked[economy] = sum(rows)
                # Nothing of a run is left to the next.
                same(b.draw(controlled(economy=economy), steps=steps), drawn[economy])
            assert asked["strong"] < asked["light"] < asked["exact"], asked
            effect = (drawn["exact"] - b.draw(b.prompts, steps=steps)).norm()
            for economy in ("light", "strong"):
                error = (drawn[economy] - drawn["exact"]).norm() / effect
                # Random weights change more from step to step than trained ones.
                assert error < 1, f"{economy}: off by {error:.2f} of the control's effect"
    finally:
        handle.remove()


CHECKS = [
    plain_equals_the_hosts,
    an_inpaint_hint_is_handed_on,
    precision_reaches_the_network,
    a_file_with_a_gap_is_refused,
    silence_is_absence,
    a_half_mask_acts_on_its_half,
    each_block_has_its_weight,
    without_uncond_gain_only_the_cond_half_runs,
    a_vae_hint_is_encoded_once,
    every_window_gets_its_frames,
    sampling_in_windows_is_sampling_frame_by_frame,
    a_clone_for_another_device_says_the_same,
    chains_with_the_hosts_in_both_orders,
    the_hosts_union_type_is_kept,
    another_kind_of_base_is_refused,
    another_size_is_refused_at_the_node,
    one_unit_is_plain_apply_in_every_mode,
    two_units_merge,
    strengths_go_by_time_and_frame,
    a_lora_hook_stays_when_a_network_is_loaded_late,
    an_economy_asks_the_network_less,
]


def outcome(check: Any, bench: Bench) -> str:
    try:
        check(bench)
    except NotMeantError:
        return "-"
    except Exception as problem:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        print(traceback.format_exc(), file=sys.stderr)
        return f"{type(problem).__name__}: {problem} ({Path(where.filename).name}:{where.lineno})"
    return "ok"


def main(pack: Path, results: Path, names: list[str]) -> None:
    logging.disable(logging.INFO)
    nodes = load_pack(pack)
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.add_model_folder_path("controlnet", folder)
        for family in FAMILIES:
            if names and family.name not in names:
                continue
            start = time.monotonic()
            bench = Bench(family, nodes, Path(folder))
            found[family.name] = {check.__name__: outcome(check, bench) for check in CHECKS}
            print(f"{family.name}: {time.monotonic() - start:.1f} s")
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
