"""Controls that act inside the attention, on the mini checkpoints: as in minihost; absent at 0."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.checkpoints.load import load_unet
from cnet_core.networks.lllite import LayerSizes, LLLite, transformer_blocks
from minihost import loader, shims

from .hosting import REPO, Host

UNET = REPO / "demo" / "weights" / "unet.safetensors"
DEPTHS = {1: 1, 2: 2, 4: 3}
STEPS: dict[str, Any] = {"steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "seed": 5}
ALWAYS = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}

Controls = tuple[tuple[str, float], ...]


@pytest.fixture(scope="session")
def lllite_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with lllite.safetensors, random weights for the mini UNet."""
    sizes = {}
    for (kind, number), (channels, scale, _) in transformer_blocks(load_unet(UNET).config).items():
        if scale not in DEPTHS:
            continue
        name = "middle_block" if kind == "middle" else f"{kind}_blocks_{number}"
        # The last two are reached by hooks around the UNet's call, the others by its attention patches.
        for layer in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q", "ff_net_0_proj", "ff_net_2"):
            full, width = (
                f"lllite_unet_{name}_1_transformer_blocks_0_{layer}",
                4 if layer == "ff_net_2" else 1,
            )
            sizes[full] = LayerSizes(width * channels, DEPTHS[scale], embedding=8, hidden=4)
    generator = torch.Generator().manual_seed(3)
    state = {
        key.removeprefix("layers."): torch.randn(value.shape, generator=generator) * 0.2
        for key, value in LLLite(sizes).state_dict().items()
    }
    folder = tmp_path_factory.mktemp("lllite")
    save_file(state, folder / "lllite.safetensors")
    return folder


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def prompt(controls: Controls, batch: int = 1, apply: str = "CNetApply") -> dict[str, Any]:
    """Two steps at 64x64 under a chain of (control, strength)."""
    nodes = {
        "base": node("CNetLoadMiniSD"),
        "before": node("HostProbeHashModel", model=["base", 0]),
        "yes": node("CLIPTextEncode", clip=["base", 1], text="a dancer, mist"),
        "no": node("CLIPTextEncode", clip=["base", 1], text=""),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=batch),
        "image": node("CNetExampleImage", name="scene.png"),
        "reference": node("CNetReference", style_fidelity=0.5),
        "lllite": node("CNetLoadControlNet", control_net_name="lllite.safetensors"),
        "canny": node("CNetLoadControlNet", control_net_name="cnet_mini_canny.safetensors"),
    }
    positive, negative = ["yes", 0], ["no", 0]
    for i, (control, strength) in enumerate(controls):
        nodes[f"apply{i}"] = node(
            apply, positive=positive, negative=negative, control_net=[control, 0], image=["image", 0],
            vae=["base", 2], **{**ALWAYS, "strength": strength},
        )  # fmt: skip
        positive, negative = [f"apply{i}", 0], [f"apply{i}", 1]
    nodes["sampler"] = node(
        "KSampler", model=["base", 0], positive=positive, negative=negative, latent_image=["empty", 0],
        denoise=1.0, **STEPS,
    )  # fmt: skip
    nodes["save"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="latent")
    return nodes


@pytest.fixture(scope="session")
def latent(host: Host, lllite_folder: Any) -> Callable[..., torch.Tensor]:
    target = host.base / "models" / "controlnet" / "lllite.safetensors"
    target.symlink_to(lllite_folder / "lllite.safetensors")
    known: dict[Any, torch.Tensor] = {}
    hashes = set()

    def run(*controls: tuple[str, float], **settings: Any) -> torch.Tensor:
        key = controls, tuple(settings.items())
        if key not in known:
            done = host.queue(prompt(controls, **settings)).checked()
            hashes.update(done.ui("before")["sha256"])
            known[key] = done.latent("save")
        # The probe hashes at the start of each run, so it tells what the run before has left.
        assert len(hashes) == 1, "a run changed the base model"
        return known[key]

    return run


@pytest.fixture(scope="session")
def in_minihost(lllite_folder: Any) -> Callable[..., torch.Tensor]:
    nodes = loader.load_nodes()
    shims.folder_paths.add_model_folder_path("controlnet", str(lllite_folder))

    def call(node_id: str, **inputs: Any) -> Any:
        outputs = nodes[node_id].execute(**inputs).args
        return outputs[0] if len(outputs) == 1 else outputs

    model, clip, vae = call("CNetLoadMiniSD")
    image = call("CNetExampleImage", name="scene.png")
    made = {
        "reference": call("CNetReference", style_fidelity=0.5),
        "lllite": call("CNetLoadControlNet", control_net_name="lllite.safetensors"),
        "canny": call("CNetLoadControlNet", control_net_name="cnet_mini_canny.safetensors"),
    }

    def run(*controls: tuple[str, float], batch: int = 1) -> torch.Tensor:
        texts = (clip.tokenize(text) for text in ("a dancer, mist", ""))
        both = [clip.encode_from_tokens_scheduled(text) for text in texts]
        for control, strength in controls:
            both = call(
                "CNetApply", positive=both[0], negative=both[1], control_net=made[control], image=image,
                vae=vae, **{**ALWAYS, "strength": strength},
            )  # fmt: skip
        return call(
            "KSampler", model=model, positive=both[0], negative=both[1], denoise=1.0,
            latent_image={"samples": torch.zeros(batch, 4, 8, 8)}, **STEPS,
        )["samples"]  # fmt: skip

    return run


CHAINS: list[Controls] = [
    (("reference", 1.0),),
    (("reference", 0.5),),
    (("lllite", 1.0),),
    (("canny", 1.0), ("reference", 1.0)),
    (("reference", 1.0), ("lllite", 0.7), ("canny", 0.5)),
]


@pytest.mark.parametrize("controls", CHAINS, ids=lambda chain: ", ".join(name for name, _ in chain))
def test_the_host_draws_what_minihost_draws(latent, in_minihost, controls: Controls) -> None:
    plain, found = latent(), latent(*controls)
    assert (found - plain).abs().max() > 1e-2
    torch.testing.assert_close(found, in_minihost(*controls), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("control", ["reference", "lllite"])
def test_strength_0_is_absence(latent, control: str) -> None:
    assert torch.equal(latent((control, 0.0)), latent())


@pytest.mark.parametrize("control", ["reference", "lllite"])
def test_the_hosts_own_apply_node_takes_it(latent, control: str) -> None:
    host_s = latent((control, 0.7), apply="ControlNetApplyAdvanced")
    torch.testing.assert_close(host_s, latent((control, 0.7)), rtol=1e-4, atol=1e-4)


def test_a_batch_of_latents_is_drawn_as_in_minihost(latent, in_minihost) -> None:
    found = latent(("reference", 1.0), ("lllite", 1.0), batch=2)
    torch.testing.assert_close(
        found, in_minihost(("reference", 1.0), ("lllite", 1.0), batch=2), rtol=1e-3, atol=1e-3
    )
