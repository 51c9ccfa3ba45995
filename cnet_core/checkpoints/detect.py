"""Tell what a checkpoint is by its keys: an ordered table of families, the first match counts.

A new family is one entry here, with an `open` function in a file of its own. Entries go from the special to
the general: a Control-LoRA also looks like a ControlNet, a full checkpoint also holds a UNet.
"""

from collections.abc import Sequence

from ..errors import CheckpointError
from .control_lora import open_control_lora
from .ctrlora import open_ctrlora
from .diffusers_controlnet import open_diffusers
from .family import Family, both, contains_any, either, has_all, has_any, starts_any, starts_none
from .ldm_controlnet import open_ldm
from .lllite import open_lllite
from .read import StateFile
from .t2i_adapter import open_adapter
from .text import printable
from .union_controlnet import open_union

_HOST_LOADER = (
    "In ComfyUI the Load ControlNet (CNet) node loads it, and the Load ControlNet Model node as well."
)
_XLABS = "of the x-flux-comfyui pack takes it."
_ADVANCED = "of the ComfyUI-Advanced-ControlNet pack takes it."
_PATCH = "Move it to models/model_patches and load it with the Load Model Patch node."
_LORA = "Move it to models/loras and load it with the Load LoRA node."
_DIFFUSION_MODEL = "Move it to models/diffusion_models and load it with the Load Diffusion Model node."
_VAE = "Move it to models/vae and load it with the Load VAE node."
_CLIP = "Move it to models/text_encoders and load it with the Load CLIP node."

_ldm_controlnet = starts_any("control_model.zero_convs.", "zero_convs.")
_hint_encoder = ("control_model.input_hint_block.", "input_hint_block.")
_OWN_CODE = "It runs in its authors' own code; there is no node for it in ComfyUI or this pack."
_diffusers_controlnet = starts_any("controlnet_cond_embedding.")
_dit_blocks = has_all("controlnet_blocks.0.weight")

_ADALN = "adaln_single.emb.timestep_embedder.linear_1.bias"
# Where the same names in a checkpoint of the base model begin.
_INSIDE = ("", "model.diffusion_model.", "model.", "net.")


def _base_model(id: str, name: str, *names: str) -> Family:
    """A base model whose tensors have all these names, bare or inside a checkpoint."""
    matches = either(*(has_all(*(prefix + one for one in names)) for prefix in _INSIDE))
    return Family(id, f"{name} (a base model)", matches, mend=_DIFFUSION_MODEL)


CONTROLNETS: tuple[Family, ...] = (
    Family("control_lora", "Control-LoRA", has_all("lora_controlnet"), open_control_lora),
    Family(
        "unicontrol",
        "UniControl, a ControlNet for many tasks",
        starts_any("control_model.input_hint_block_list_moe.", "input_hint_block_list_moe."),
        mend=_OWN_CODE,
    ),
    Family(
        "anytext",
        "AnyText, a ControlNet that writes words",
        starts_any("control_model.glyph_block.", "glyph_block."),
        mend=_OWN_CODE,
    ),
    Family(
        "ctrlora",
        "CtrLoRA",
        both(_ldm_controlnet, either(contains_any(".lora_layer."), starts_none(*_hint_encoder))),
        open_ctrlora,
    ),
    Family(
        "sparsectrl",
        "SparseCtrl ControlNet for AnimateDiff",
        both(contains_any("controlnet_cond_embedding"), contains_any("motion_modules.")),
        mend=f"The Load SparseCtrl Model node {_ADVANCED}",
    ),
    Family(
        "controlnet_xs",
        "ControlNet-XS",
        contains_any("ctrl_to_base.", "base_to_ctrl."),
        mend="It is run by diffusers; there is no node for it in ComfyUI or this pack.",
    ),
    Family(
        "svd_controlnet",
        "temporal ControlNet for Stable Video Diffusion",
        both(contains_any("controlnet_cond_embedding"), contains_any(".temporal_res_block.")),
        mend=f"The Load Advanced ControlNet Model node {_ADVANCED}",
    ),
    Family(
        "kolors",
        "ControlNet for Kolors",
        both(_diffusers_controlnet, has_all("encoder_hid_proj.weight")),
        mend="The KolorsControlNetLoader node of the ComfyUI-Kolors-MZ pack takes it.",
    ),
    Family(
        "union",
        "union ControlNet",
        both(
            either(_diffusers_controlnet, _ldm_controlnet),
            has_any("control_add_embedding.linear_1.bias", "task_embedding"),
        ),
        open_union,
    ),
    Family("diffusers_controlnet", "ControlNet", _diffusers_controlnet, open_diffusers),
    Family(
        "difference_controlnet",
        "difference ControlNet",
        both(has_all("difference"), _ldm_controlnet),
        open_ldm,
    ),
    Family("ldm_controlnet", "ControlNet", _ldm_controlnet, open_ldm),
    Family(
        "t2i_adapter",
        "T2I-Adapter",
        either(
            has_any(
                "body.0.in_conv.weight",
                "adapter.body.0.resnets.0.block1.weight",
                "adapter.body.0.in_conv.weight",
            ),
            has_all("conv_in.weight", "body.0.block1.weight"),
            has_all("adapter.conv_in.weight", "adapter.body.0.block1.weight"),
        ),
        open_adapter,
    ),
    Family(
        "flux_xlabs_diffusers",
        "Flux ControlNet (XLabs) in diffusers layout",
        both(_dit_blocks, has_all("controlnet_x_embedder.weight"), starts_any("input_hint_block.")),
        mend=(
            "ComfyUI's loader would leave out its hint encoder: get the same ControlNet in XLabs' own "
            "layout, whose tensors are named double_blocks. and controlnet_blocks."
        ),
    ),
    Family("lllite", "ControlNet-LLLite", starts_any("lllite_unet_"), open_lllite),
)

# Networks for transformers (DiT) and others, which the host's own loader knows.
HOST_CONTROLNETS: tuple[Family, ...] = (
    Family(
        "hunyuan_dit",
        "HunyuanDiT ControlNet",
        has_all("after_proj_list.18.bias"),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "flux_xlabs",
        "Flux ControlNet (XLabs)",
        both(_dit_blocks, has_all("double_blocks.0.img_attn.norm.key_norm.scale")),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "flux_mistoline",
        "Flux ControlNet (MistoLine)",
        has_all("controlnet_blocks.0.linear.weight"),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "sd3",
        "SD3 ControlNet",
        both(_dit_blocks, has_all("pos_embed_input.proj.weight")),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "qwen_instantx",
        "Qwen-Image ControlNet (InstantX)",
        both(_dit_blocks, has_all("transformer_blocks.0.img_mlp.net.0.proj.weight")),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "flux_instantx",
        "Flux ControlNet (InstantX)",
        both(_dit_blocks, has_all("controlnet_x_embedder.weight")),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "qwen_fun",
        "Qwen-Image Fun ControlNet",
        has_all("control_blocks.0.after_proj.weight", "control_img_in.weight"),
        host=True,
        mend=_HOST_LOADER,
    ),
    Family(
        "cascade",
        "Stable Cascade ControlNet",
        # The encoder of the cascade's latents has the same backbone, and no projections.
        both(has_any("backbone.0.0.weight", "backbone.10.blocks.0.weight"), starts_any("projections.")),
        host=True,
        mend=_HOST_LOADER,
    ),
)

MODEL_PATCHES: tuple[Family, ...] = (
    Family(
        "qwen_diffsynth",
        "Qwen-Image DiffSynth model patch",
        has_all("controlnet_blocks.0.y_rms.weight"),
        mend=f"{_PATCH} The Apply Qwen Image DiffSynth ControlNet node uses it.",
    ),
    Family(
        "z_image_fun",
        "Z-Image Fun ControlNet, a model patch",
        starts_any("control_all_x_embedder."),
        mend=f"{_PATCH} The Apply Z-Image Fun ControlNet node uses it.",
    ),
    Family(
        "uni3c",
        "Wan Uni3C ControlNet, a model patch",
        has_all("controlnet_patch_embedding.weight"),
        mend=f"{_PATCH} The Apply Wan Uni3C ControlNet node uses it.",
    ),
    Family(
        "anima_lllite",
        "Anima LLLite, a model patch",
        has_all("lllite_conditioning1.conv1.weight"),
        mend=f"{_PATCH} The Apply Anima LLLite node uses it.",
    ),
    Family(
        "infinite_talk",
        "Wan InfiniteTalk (MultiTalk), a model patch",
        has_all("audio_proj.proj1.weight"),
        mend=f"{_PATCH} The WanInfiniteTalkToVideo node uses it.",
    ),
    Family(
        "ltxv_duration",
        "LTXV duration head, a model patch",
        either(
            has_all("attention_pooler.query_tokens"),
            # Not the base model that holds one.
            both(
                contains_any("duration_head.attention_pooler.query_tokens"),
                starts_none("adaln_single.", "model.diffusion_model.adaln_single."),
            ),
        ),
        mend=f"{_PATCH} The LTXV Duration Predictor node uses it.",
    ),
    Family(
        "supir",
        "SUPIR model patch",
        both(
            has_any(
                "control_model.input_hint_block.0.weight", "model.control_model.input_hint_block.0.weight"
            ),
            contains_any("project_modules."),
        ),
        mend=f"{_PATCH} The Apply SUPIR Patch node uses it.",
    ),
    Family(
        "uso",
        "USO style projector, a model patch",
        has_all("feature_embedder.mid_layer_norm.bias"),
        mend=f"{_PATCH} The Apply USO Style Reference node uses it.",
    ),
)

OTHER_MODELS: tuple[Family, ...] = (
    Family(
        "style_adapter",
        "style adapter (T2I-Adapter's style model, which reads a CLIP vision embedding)",
        has_any("style_embedding"),
        mend="Move it to models/style_models and load it with the Load Style Model node.",
    ),
    Family(
        "redux",
        "Flux Redux (a style model, which reads a CLIP vision embedding)",
        has_all("redux_down.weight"),
        mend="Move it to models/style_models and load it with the Load Style Model node.",
    ),
    Family(
        "coadapter_fuser",
        "CoAdapter fuser, which joins several T2I-Adapters",
        starts_any("spatial_feat_mapping."),
        mend="No node of ComfyUI takes it; the CoAdapters themselves work without it, as T2I-Adapters do.",
    ),
    Family(
        "photomaker",
        "PhotoMaker",
        starts_any("id_encoder."),
        mend="Move it to models/photomaker and load it with the Load PhotoMaker Model node.",
    ),
    Family(
        "instantid",
        "InstantID's adapter",
        # Faces come as 512 numbers, pictures of an IP-Adapter as more.
        both(
            starts_any("ip_adapter."),
            has_all("image_proj.latents", "image_proj.proj_in.weight"),
            lambda state: tuple(state["image_proj.proj_in.weight"].shape[1:]) == (512,),
        ),
        mend=(
            "Move it to models/instantid; the Load InstantID Model node of the ComfyUI_InstantID pack takes "
            "it, and InstantID's ControlNet goes into this loader."
        ),
    ),
    Family(
        "ip_adapter",
        "IP-Adapter",
        both(starts_any("image_proj."), starts_any("ip_adapter.")),
        mend="Move it to models/ipadapter; the IPAdapter Model Loader node of an IP-Adapter pack takes it.",
    ),
    Family(
        "ip_adapter_xlabs",
        "Flux IP-Adapter (XLabs)",
        contains_any(".processor.ip_adapter_"),
        mend=f"Move it to models/xlabs/ipadapters; the LoadFluxIPAdapter node {_XLABS}",
    ),
    Family(
        "motion_module",
        "AnimateDiff motion module",
        contains_any("motion_modules."),
        mend="Move it to models/animatediff_models; the AnimateDiff nodes take it.",
    ),
    Family(
        "lora_xlabs",
        "Flux LoRA (XLabs)",
        # With all blocks, ComfyUI's own LoRA nodes take it.
        both(
            contains_any(".processor.proj_lora", ".processor.qkv_lora"),
            starts_none("single_blocks.37.processor.qkv_lora."),
        ),
        mend=f"Move it to models/xlabs/loras; the Load Flux LoRA node {_XLABS}",
    ),
    Family("kohya_lora", "LoRA (kohya)", starts_any("lora_unet_", "lora_te"), mend=_LORA),
    Family(
        "lora",
        "LoRA",
        contains_any(
            ".lora_A.",
            ".lora_B.",
            ".lora_down.",
            ".lora_up.",
            ".lora.down.",
            ".lora.up.",
            "_lora.down.",
            "_lora.up.",
            ".lora_linear_layer.",
            ".lora_layer.",
            ".hada_w1_a",
            ".lokr_w1",
            ".oft_blocks",
        ),
        mend=_LORA,
    ),
    Family(
        "embedding",
        "textual inversion embedding",
        either(has_any("emb_params", "clip_l", "clip_g"), starts_any("string_to_param.")),
        mend="Move it to models/embeddings and write embedding:its_name in the prompt.",
    ),
    Family(
        "checkpoint",
        "full Stable Diffusion checkpoint",
        both(
            starts_any("model.diffusion_model."),
            starts_any("first_stage_model.", "cond_stage_model.", "conditioner.", "vae.", "text_encoders."),
        ),
        mend="Move it to models/checkpoints and load it with the Load Checkpoint node.",
    ),
    Family(
        "gligen",
        "GLIGEN, which places objects in boxes",
        has_all("position_net.null_positive_feature"),
        mend="Move it to models/gligen and load it with the Load GLIGEN Model node.",
    ),
    Family(
        "ldm_unet",
        "UNet (the base model itself)",
        has_any(
            "model.diffusion_model.output_blocks.0.0.in_layers.0.weight",
            "diffusion_model.output_blocks.0.0.in_layers.0.weight",
            "output_blocks.0.0.in_layers.0.weight",
        ),
        mend=_DIFFUSION_MODEL,
    ),
    Family(
        "brushnet",
        "BrushNet, which paints into a masked picture",
        starts_any("brushnet_down_blocks.", "brushnet_mid_block."),
        mend="Move it to models/inpaint; the BrushNet Loader node of the ComfyUI-BrushNet pack takes it.",
    ),
    Family(
        "diffusers_unet",
        "UNet in diffusers layout (the base model itself)",
        has_all("time_embedding.linear_1.weight", "up_blocks.0.resnets.0.norm1.weight"),
        mend=_DIFFUSION_MODEL,
    ),
    Family(
        "wan_vace",
        "Wan VACE (a base model with a control of its own)",
        either(*(has_all(inside + "vace_patch_embedding.weight") for inside in _INSIDE)),
        mend=f"{_DIFFUSION_MODEL} The WanVaceToVideo node gives it the video to follow.",
    ),
    _base_model("wan", "Wan video model", "head.modulation"),
    _base_model("auraflow", "AuraFlow", "double_layers.0.attn.w1q.weight"),
    _base_model(
        "auraflow_diffusers",
        "AuraFlow in diffusers layout",
        "joint_transformer_blocks.0.attn.add_k_proj.weight",
    ),
    _base_model("hunyuan_dit_base", "HunyuanDiT", "mlp_t5.0.weight"),
    _base_model("pixart", "PixArt", "t_block.1.weight"),
    _base_model("pixart_diffusers", "PixArt in diffusers layout", _ADALN, "pos_embed.proj.bias"),
    _base_model("ltxv", "LTX video model", _ADALN),
    _base_model("cosmos", "Cosmos video model", "blocks.block0.blocks.0.block.attn.to_q.0.weight"),
    _base_model("cosmos_predict2", "Cosmos Predict2", "blocks.0.mlp.layer1.weight"),
    _base_model("hidream", "HiDream", "caption_projection.0.linear.weight"),
    _base_model("cascade_base", "Stable Cascade, stage B or C", "clf.1.weight"),
    _base_model(
        "sd3_diffusers",
        "SD3 in diffusers layout",
        "transformer_blocks.0.attn.add_q_proj.weight",
        "pos_embed.proj.weight",
    ),
    Family(
        "dit",
        "diffusion transformer (a base model such as Flux, SD3 or Qwen-Image)",
        starts_any(
            "model.diffusion_model.",
            "double_blocks.0.",
            "joint_blocks.0.",
            "single_blocks.0.",
            "transformer_blocks.0.img_mlp.",
            "single_transformer_blocks.0.",
            "cap_embedder.",
        ),
        mend=_DIFFUSION_MODEL,
    ),
    Family(
        "ldm_vae",
        "VAE",
        has_any("decoder.mid.block_1.norm1.weight", "first_stage_model.decoder.mid.block_1.norm1.weight"),
        mend=_VAE,
    ),
    Family(
        "diffusers_vae",
        "VAE in diffusers layout",
        has_all("decoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.weight"),
        mend=_VAE,
    ),
    Family(
        "video_vae",
        "VAE of a video model (Wan, LTXV, Hunyuan or Cosmos)",
        has_any(
            "decoder.middle.0.residual.0.gamma",
            "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight",
            "decoder.conv_in.conv.weight",
            "decoder.unpatcher3d.wavelets",
        ),
        mend=_VAE,
    ),
    Family(
        "cascade_vae",
        "VAE of Stable Cascade (stage A, or the encoder or previewer of stage C)",
        has_any(
            "vquantizer.codebook.weight",
            "backbone.1.0.block.0.1.num_batches_tracked",
            "encoder.backbone.1.0.block.0.1.num_batches_tracked",
            "blocks.11.num_batches_tracked",
        ),
        mend=_VAE,
    ),
    Family(
        "taesd",
        "TAESD, a tiny VAE",
        either(
            # A decoder has its first layer without weights, and an encoder's second layer is a block.
            has_all("1.weight", "3.conv.0.weight"),
            has_all("0.weight", "1.conv.0.weight"),
            has_any("taesd_decoder.1.weight", "decoder.22.bias"),
        ),
        mend="Move it to models/vae_approx; the Load VAE node offers it, with both its halves there.",
    ),
    Family(
        "text_encoder",
        "text encoder",
        either(
            contains_any("text_model.encoder.", "token_embedding."),
            has_any(
                "encoder.block.0.layer.0.SelfAttention.q.weight", "model.layers.0.self_attn.q_proj.weight"
            ),
        ),
        mend=_CLIP,
    ),
    Family(
        "clip_vision",
        "CLIP vision model",
        starts_any("vision_model.", "visual."),
        mend="Move it to models/clip_vision and load it with the Load CLIP Vision node.",
    ),
    Family(
        "upscaler",
        "upscaling model (ESRGAN)",
        has_any(
            "model.0.weight",
            "RRDB_trunk.0.RDB1.conv1.weight",
            "body.0.rdb1.conv1.weight",
            "model.1.sub.0.RDB1.conv1.0.weight",
        ),
        mend="Move it to models/upscale_models and load it with the Load Upscale Model node.",
    ),
)

# By the names of lllyasviel/Annotators' files and of those in transformers' layout.
ANNOTATORS: tuple[Family, ...] = (
    Family(
        "annotator",
        "annotator's network, which makes hints",
        either(
            has_any("Mconv7_stage6_L2.weight", "Mconv7_stage6.weight"),
            has_all("norm", "block1.convs.0.weight"),
            has_all("init_block.weight", "block1_1.conv1.weight"),
            has_all("module.init_block.weight", "module.block1_1.conv1.weight"),
            has_all("backbone.features.0.0.weight", "block23.conv3.weight"),
            has_all("model0.1.weight", "model4.1.weight"),
            has_any("scratch.refinenet1.out_conv.weight"),
            has_all("backbone.embeddings.cls_token", "head.conv1.weight"),
            has_all("mask_decoder.iou_token.weight"),
        ),
        mend=(
            "The Annotate (CNet) node reads those that its help pages name, from a folder of the "
            "repository's name in models/controlnet_annotators."
        ),
    ),
)

FAMILIES: tuple[Family, ...] = (*CONTROLNETS, *HOST_CONTROLNETS, *MODEL_PATCHES, *OTHER_MODELS, *ANNOTATORS)


def identify(file: StateFile, families: Sequence[Family] = FAMILIES) -> Family:
    """The first family whose condition the file's keys meet; its `kind` says who loads it.

    Raises CheckpointError for a file that is no network of any known family.
    """
    for family in families:
        if family.matches(file.tensors):
            return family
    names = ", ".join(printable(name, 80) for name in sorted(file.tensors)[:3])
    raise CheckpointError(
        f"{file.path} is not a ControlNet that this pack knows: its {len(file.tensors)} tensors ({names}, "
        "...) match no known family. Supported are ControlNets and T2I-Adapters for SD1.5, SD2.x and "
        "SDXL, in LDM or diffusers layout, union ControlNets, Control-LoRA, CtrLoRA and ControlNet-LLLite; "
        "with ComfyUI's loader also ControlNets for Flux, SD3, Qwen-Image, HunyuanDiT and Stable Cascade. "
        "For another kind, the page that the file is from names the node that takes it."
    )


def refuse(file: StateFile, family: Family) -> CheckpointError:
    """The error for a file that this pack does not load itself: what it is, and where it belongs."""
    return CheckpointError(
        f"{file.path} holds another kind of network: {family.name}. Expected a ControlNet for SD1.5, SD2.x "
        f"or SDXL. {family.mend}"
    )
