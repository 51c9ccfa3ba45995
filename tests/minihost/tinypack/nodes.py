"""Nodes of every kind of input, and a tiny random Stable Diffusion."""

import comfy.controlnet
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import folder_paths
import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

runs = []  # names of the nodes that ran, in order, for the tests to read


class TinyLatent(comfy.latent_formats.LatentFormat):
    scale_factor = 0.5


class TinyConfig(comfy.supported_models_base.BASE):
    unet_config = {}
    unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
    latent_format = TinyLatent


UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": 0,
    "context_dim": 8,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
}


def nothing():
    """What the host keeps of a model without weights."""
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(torch.nn.Identity(), cpu, cpu)


class TinyClip:
    def __init__(self):
        self.patcher = nothing()

    def tokenize(self, text):
        return [ord(letter) for letter in text[:4].ljust(4)]

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(sum(tokens))
        return [[torch.randn(1, 4, 8, generator=generator), {"pooled_output": None}]]


class TinyVae:
    def __init__(self):
        self.patcher = nothing()

    def decode(self, latent):
        picture = torch.nn.functional.interpolate(latent[:, :3], scale_factor=8, mode="nearest")
        return torch.sigmoid(picture).movedim(1, -1)

    def encode(self, image):
        small = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 8)
        return torch.cat([small, small[:, :1]], dim=1)


class TinyLoad(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyLoad",
            display_name="Load Tiny",
            category="tiny",
            description="A random model.",
            search_aliases=["load", "tiny"],
            inputs=[
                io.Combo.Input("prediction", options=["eps", "v"], default="eps", tooltip="What it predicts.")
            ],
            outputs=[
                io.Model.Output(tooltip="The model."),
                io.Clip.Output("clip"),
                io.Vae.Output("vae", display_name="VAE", tooltip="The autoencoder."),
            ],
        )

    @classmethod
    def execute(cls, prediction):
        runs.append("TinyLoad")
        config = TinyConfig(UNET)
        config.set_inference_dtype(torch.float32, None)
        kinds = {"eps": comfy.model_base.ModelType.EPS, "v": comfy.model_base.ModelType.V_PREDICTION}
        base = comfy.model_base.BaseModel(config, kinds[prediction])
        generator = torch.Generator().manual_seed(0)
        state = {
            f"model.{key}": torch.randn(value.shape, generator=generator) * 0.05
            for key, value in sorted(base.diffusion_model.state_dict().items())
        }
        base.load_model_weights(state, "model.")
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.CoreModelPatcher(
            base, device, comfy.model_management.unet_offload_device()
        )
        return io.NodeOutput(patcher, TinyClip(), TinyVae())


class TinyControl(comfy.controlnet.ControlBase):
    """Adds a constant to the middle; writes down what the host tells it."""

    def __init__(self, value, events, interrupt_at=None):
        super().__init__()
        self.value, self.events, self.interrupt_at = value, events, interrupt_at

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.events.append(("pre_run", self.timestep_range))

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.events.append(
            ("get_control", tuple(x_noisy.shape), tuple(transformer_options["cond_or_uncond"]))
        )
        if self.interrupt_at is not None and len(self.events) >= self.interrupt_at:
            comfy.model_management.interrupt_current_processing()
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        height, width = ((side + 1) // 2 for side in x_noisy.shape[2:])
        middle = torch.full((x_noisy.shape[0], 64, height, width), float(self.value))
        return self.control_merge({"input": [], "middle": [middle], "output": []}, before, x_noisy.dtype)

    def cleanup(self):
        super().cleanup()
        self.events.append(("cleanup",))


events = []


class TinyApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyApply",
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Float.Input("value", default=1.0, min=-10.0, max=10.0, step=0.1),
                io.Boolean.Input("same_object", default=True),
                io.Int.Input("interrupt_at", default=-1, min=-1, max=100, advanced=True),
            ],
            outputs=[io.Conditioning.Output("positive"), io.Conditioning.Output("negative")],
        )

    @classmethod
    def execute(cls, positive, negative, value, same_object, interrupt_at):
        stop = interrupt_at if interrupt_at >= 0 else None
        first = TinyControl(value, events, stop)
        second = first if same_object else TinyControl(value, events, stop)
        first.set_cond_hint(torch.zeros(1, 3, 8, 8), 1.0, (0.0, 1.0))
        out = []
        for conditioning, control in ((positive, first), (negative, second)):
            out.append([[cond, {**values, "control": control}] for cond, values in conditioning])
        return io.NodeOutput(*out)


class TinySum(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        slot = io.Int.Input("number", tooltip="One of them.")
        return io.Schema(
            node_id="TinySum",
            inputs=[
                io.Autogrow.Input(
                    "numbers", template=io.Autogrow.TemplatePrefix(slot, prefix="number", min=2, max=4)
                ),
                io.Autogrow.Input(
                    "named",
                    template=io.Autogrow.TemplateNames(
                        io.Int.Input("one", optional=True), names=["a", "b"], min=0
                    ),
                ),
            ],
            outputs=[io.Int.Output("sum"), io.String.Output("names")],
        )

    @classmethod
    def execute(cls, numbers, named):
        return io.NodeOutput(sum(numbers.values()), ",".join([*numbers, *named]))


class TinyNumber(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyNumber",
            inputs=[
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=100,
                    control_after_generate=True,
                    display_mode=io.NumberDisplay.slider,
                ),
                io.Int.Input("extra", optional=True, default=0),
            ],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def execute(cls, seed, extra=0):
        runs.append(f"TinyNumber {seed}")
        if seed == 99:
            raise ValueError("ninety-nine is too many")
        if seed == 98:
            raise KeyError("a fault of the node itself")
        return io.NodeOutput(seed + extra)


class TinyChoice(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        size = [io.Int.Input("width", default=8, min=1), io.String.Input("note", default="x", multiline=True)]
        return io.Schema(
            node_id="TinyChoice",
            inputs=[
                io.DynamicCombo.Input(
                    "mode",
                    options=[
                        io.DynamicCombo.Option("size", size),
                        io.DynamicCombo.Option("scale", [io.Float.Input("factor", default=2.0)]),
                    ],
                    tooltip="How.",
                ),
                io.String.Input("after", default="end"),
            ],
            outputs=[io.String.Output("text")],
        )

    @classmethod
    def execute(cls, mode, after):
        return io.NodeOutput(f"{sorted(mode.items())} {after}")


class TinyMany(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyMany",
            inputs=[io.Int.Input("count", default=3, min=0, max=9)],
            outputs=[io.Int.Output("number", is_output_list=True)],
        )

    @classmethod
    def execute(cls, count):
        return io.NodeOutput(list(range(count)))


class TinyTotal(io.ComfyNode):
    """Takes all items of a list at once."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyTotal",
            inputs=[io.Int.Input("numbers")],
            outputs=[io.Int.Output("total")],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, numbers):
        return io.NodeOutput(sum(numbers))


class TinyGate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TinyGate", inputs=[io.Int.Input("number")], outputs=[io.Int.Output("even")])

    @classmethod
    def execute(cls, number):
        return io.NodeOutput(ExecutionBlocker(f"{number} is odd") if number % 2 else number)


class TinyShow(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyShow",
            display_name="Show",
            inputs=[io.MultiType.Input("value", types=[io.Int, io.String, io.Float])],
            is_output_node=True,
            is_experimental=True,
        )

    @classmethod
    async def execute(cls, value):
        assert cls.hidden.prompt is not None
        return io.NodeOutput(ui=ui.PreviewText(str(value)))


class TinyCheck(io.ComfyNode):
    fingerprint = 0

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TinyCheck",
            inputs=[
                io.Int.Input("low", default=0, min=0),
                io.Int.Input("high", default=1, max=10),
                io.Combo.Input("file", options=folder_paths.get_filename_list("tiny"), optional=True),
                io.AnyType.Input("anything", optional=True, raw_link=None, lazy=False),
            ],
            outputs=[io.Int.Output("span")],
            hidden=[io.Hidden.unique_id],
            is_deprecated=True,
        )

    @classmethod
    def validate_inputs(cls, low, high):
        return True if low is None or high is None or low <= high else f"low {low} is above high {high}"

    @classmethod
    def fingerprint_inputs(cls, **kwargs):
        return cls.fingerprint

    @classmethod
    def execute(cls, low, high, file=None, anything=None):
        runs.append(f"TinyCheck {cls.hidden.unique_id}")
        return io.NodeOutput(high - low)


folder_paths.add_model_folder_path("tiny", __file__.rsplit("/", 1)[0])
NODES = [
    *(TinyLoad, TinyApply, TinySum, TinyNumber, TinyChoice, TinyMany, TinyTotal, TinyGate, TinyShow),
    TinyCheck,
]
