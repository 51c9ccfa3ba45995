"""Test-only custom nodes: they look at what runs do and leave behind, and break runs at a chosen moment."""

import gc
import hashlib
import json
import time
import weakref
from pathlib import Path

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io

# Rows of each forward pass of the control networks that are watched, since they were last reported.
PASSES = []
WATCHED = weakref.WeakSet()


def held():
    """What is alive in this process: computed steps that controls remember, and bytes of all tensors but
    weights, which the host drops and loads again when memory is short."""
    gc.collect()
    living = gc.get_objects()
    anchors = [o for o in living if type(o).__name__ == "Anchor" and type(o).__module__.endswith(".reuse")]
    # Asking the type, because some libraries' objects answer isinstance by importing what they stand for.
    tensors = [o for o in living if issubclass(type(o), torch.Tensor) and o.device.type == "cpu"]
    weights = {t.untyped_storage().data_ptr() for t in tensors if isinstance(t, torch.nn.Parameter)}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return {
        "anchors": len(anchors),
        "bytes": sum(size for place, size in storages.items() if place not in weights),
    }


class HashModel(io.ComfyNode):
    """SHA-256 over the names and bytes of a MODEL's weights, and which object it is."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeHashModel", category="tests", inputs=[io.Model.Input("model")], is_output_node=True
        )

    @classmethod
    def fingerprint_inputs(cls, model):
        """Hash anew in every run."""
        return float("nan")

    @classmethod
    def execute(cls, model):
        digest = hashlib.sha256()
        for name, tensor in sorted(model.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return io.NodeOutput(ui={"sha256": [digest.hexdigest()], "object": [id(model.model)]})


class BreakModel(io.ComfyNode):
    """A MODEL that raises, or waits to be interrupted, after the given step (counted from 0)."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeBreakModel",
            category="tests",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("how", options=["raise", "wait"]),
                io.Int.Input("step", default=1),
                io.String.Input("marker", tooltip="File for what is held when the moment has come."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, how, step, marker):
        steps = 0

        def after_step(args):
            nonlocal steps
            steps += 1
            if steps <= step:
                return args["denoised"]
            Path(marker).write_text(json.dumps(held()))
            if how == "raise":
                raise RuntimeError("broken by the test")
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(0.01)
            raise RuntimeError("nobody interrupted the test")

        broken = model.clone()
        broken.set_model_sampler_post_cfg_function(after_step)
        return io.NodeOutput(broken)


class RandomConditioning(io.ComfyNode):
    """Text conditioning [1,77,width] from a seed, so that no text encoder is needed."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeRandomConditioning",
            category="tests",
            inputs=[io.Int.Input("seed"), io.Int.Input("width", default=768)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed, width):
        text = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(seed))
        return io.NodeOutput([[text, {"pooled_output": text[:, 0]}]])


class RandomEncoders(io.ComfyNode):
    """SD1.5's CLIP and VAE as the host loads them, with random weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeRandomEncoders", category="tests", outputs=[io.Clip.Output(), io.Vae.Output()]
        )

    @classmethod
    def execute(cls):
        text = comfy.sd1_clip.SD1ClipModel(device="cpu", dtype=torch.float32).clip_l.transformer
        sizes = {
            "ch": 128, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 2, "attn_resolutions": (), "dropout": 0.0,
            "in_channels": 3, "out_ch": 3, "resolution": 256, "z_channels": 4, "double_z": True,
        }  # fmt: skip
        autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=sizes, embed_dim=4)
        clip = comfy.sd.load_text_encoder_state_dicts(
            [filled(text.state_dict(), 1)], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION
        )
        return io.NodeOutput(clip, comfy.sd.VAE(sd=filled(autoencoder.state_dict(), 2)))


def filled(state, seed):
    """Random weights of variance 1/fan_in in place of the given ones, norms as identity."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, like in state.items():
        if not like.is_floating_point():
            made[name] = like
        elif like.ndim > 1:
            made[name] = torch.randn(like.shape, generator=generator) * like[0].numel() ** -0.5
        else:
            made[name] = torch.full(like.shape, float(name.endswith("weight")))
    return made


class WatchControl(io.ComfyNode):
    """A CONTROL_NET of the pack, whose passes are reported."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeWatchControl",
            category="tests",
            inputs=[io.ControlNet.Input("control_net")],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net):
        net = control_net.network.net
        if net not in WATCHED:
            WATCHED.add(net)
            net.register_forward_hook(lambda _net, inputs, _output: PASSES.append(inputs[0].shape[0]))
        return io.NodeOutput(control_net)


class Report(io.ComfyNode):
    """The passes of the watched controls since the last report, and what is held now."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeReport",
            category="tests",
            inputs=[io.Latent.Input("after", optional=True)],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, after=None):
        """Report anew in every run."""
        return float("nan")

    @classmethod
    def execute(cls, after=None):
        found = {"passes": list(PASSES), "held": [held()]}
        PASSES.clear()
        return io.NodeOutput(ui=found)


class ApartGuider(io.ComfyNode):
    """A guider that asks for the prompt's side and the negative's in calls of their own."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbeApartGuider",
            category="tests",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Float.Input("cfg"),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model, positive, negative, cfg):
        guider = Apart(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class Apart(comfy.samplers.CFGGuider):
    def predict_noise(self, x, timestep, model_options, seed=None):
        def ask(*conds):
            return comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)

        (_, uncond), (cond, _) = ask(None, self.conds["negative"]), ask(self.conds["positive"], None)
        return uncond + self.cfg * (cond - uncond)


class PoseModel(io.ComfyNode):
    """A MODEL that the host's SDPose nodes take for theirs, which sees one person in every picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "HostProbePoseModel",
            category="tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input(
                    "points",
                    tooltip="JSON, [133][3]: x, y in shares of the picture, and score; in its order.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, points):
        person = np.array(json.loads(points), np.float32)

        class Head:
            heatmap_size = (192, 256)

            def __call__(self, features):
                scaled = person[:, :2] * np.array(self.heatmap_size, np.float32) * 4
                return [scaled], [person[:, 2]]

        seeing = model.clone()
        seeing.set_model_unet_function_wrapper(lambda apply, args: torch.zeros_like(args["input"]))
        seeing.model.diffusion_model.heatmap_head = Head()
        return io.NodeOutput(seeing)


class Probes(ComfyExtension):
    async def get_node_list(self):
        watching = [HashModel, BreakModel, WatchControl, Report]
        return [*watching, RandomConditioning, RandomEncoders, ApartGuider, PoseModel]


async def comfy_entrypoint():
    return Probes()
