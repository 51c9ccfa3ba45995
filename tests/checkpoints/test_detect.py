"""The table of families: each is known by its keys, and each message says where the file belongs."""

import pytest
import torch

from cnet_core.checkpoints import (
    Family,
    identify,
    load_controlnet,
    open_control,
    read_state_dict,
    refuse,
)
from cnet_core.checkpoints.convert import to_diffusers
from cnet_core.checkpoints.detect import FAMILIES
from cnet_core.checkpoints.family import has_all
from cnet_core.checkpoints.shapes import encoder_config
from cnet_core.errors import CheckpointError

# Keys as the released files have them; (family, part of the mend).
HOST = "Load ControlNet (CNet)"
KEYS = {
    ("hunyuan_dit", HOST): ["after_proj_list.18.bias", "before_proj.weight"],
    ("flux_xlabs", HOST): ["controlnet_blocks.0.weight", "double_blocks.0.img_attn.norm.key_norm.scale"],
    ("flux_instantx", HOST): ["controlnet_blocks.0.weight", "controlnet_x_embedder.weight"],
    ("flux_mistoline", HOST): ["controlnet_blocks.0.linear.weight"],
    ("sd3", HOST): ["controlnet_blocks.0.weight", "pos_embed_input.proj.weight"],
    ("qwen_instantx", HOST): [
        "controlnet_blocks.0.weight",
        "transformer_blocks.0.img_mlp.net.0.proj.weight",
        "controlnet_x_embedder.weight",
    ],
    ("qwen_fun", HOST): ["control_blocks.0.after_proj.weight", "control_img_in.weight"],
    ("cascade", HOST): ["backbone.0.0.weight", "projections.0.0.weight"],
    ("flux_xlabs_diffusers", "XLabs' own layout"): [
        "controlnet_blocks.0.weight",
        "controlnet_x_embedder.weight",
        "input_hint_block.conv_in.weight",
    ],
    ("unicontrol", "no node"): [
        "control_model.input_hint_block_list_moe.0.0.weight",
        "control_model.zero_convs.0.0.weight",
        "task_id_hypernet.0.weight",
    ],
    ("anytext", "no node"): [
        "control_model.glyph_block.0.weight",
        "control_model.zero_convs.0.0.weight",
        "control_model.input_blocks.0.0.weight",
    ],
    ("photomaker", "Load PhotoMaker Model"): [
        "id_encoder.vision_model.embeddings.class_embedding",
        "lora_weights.unet.down_blocks.1.attn1.processor.to_q_lora.down.weight",
    ],
    ("annotator", "models/controlnet_annotators"): ["conv1_1.weight", "Mconv7_stage6_L2.weight"],
    ("sparsectrl", "Load SparseCtrl Model"): [
        "controlnet_cond_embedding.conv_in.weight",
        "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",
    ],
    ("controlnet_xs", "run by diffusers"): [
        "controlnet_cond_embedding.conv_in.weight",
        "down_blocks.0.ctrl_to_base.0.weight",
    ],
    ("svd_controlnet", "Load Advanced ControlNet Model"): [
        "controlnet_cond_embedding.conv_in.weight",
        "down_blocks.0.resnets.0.spatial_res_block.conv1.weight",
        "down_blocks.0.resnets.0.temporal_res_block.conv1.weight",
    ],
    ("kolors", "KolorsControlNetLoader"): [
        "controlnet_cond_embedding.conv_in.weight",
        "encoder_hid_proj.weight",
        "add_embedding.linear_1.weight",
    ],
    ("brushnet", "BrushNet Loader"): [
        "brushnet_down_blocks.0.weight",
        "time_embedding.linear_1.weight",
        "up_blocks.0.resnets.0.norm1.weight",
    ],
    ("style_adapter", "Load Style Model"): ["style_embedding", "transformer_layes.0.ln_1.weight", "proj"],
    ("redux", "Load Style Model"): ["redux_up.weight", "redux_down.weight"],
    ("coadapter_fuser", "work without it"): ["spatial_feat_mapping.0.1.weight", "task_embedding"],
    ("qwen_diffsynth", "Load Model Patch"): [
        "controlnet_blocks.0.y_rms.weight",
        "controlnet_blocks.0.weight",
        "img_in.weight",
    ],
    ("z_image_fun", "Load Model Patch"): [
        "control_all_x_embedder.2-1.weight",
        "control_layers.0.before_proj.weight",
    ],
    ("uni3c", "Load Model Patch"): ["controlnet_patch_embedding.weight"],
    ("anima_lllite", "Load Model Patch"): ["lllite_conditioning1.conv1.weight"],
    ("infinite_talk", "WanInfiniteTalkToVideo"): [
        "audio_proj.proj1.weight",
        "blocks.0.audio_cross_attn.proj.weight",
    ],
    ("ltxv_duration", "LTXV Duration Predictor"): ["attention_pooler.query_tokens"],
    ("supir", "Load Model Patch"): [
        "control_model.input_hint_block.0.weight",
        "project_modules.0.zero_conv.weight",
    ],
    ("uso", "Load Model Patch"): ["feature_embedder.mid_layer_norm.bias"],
    ("ip_adapter", "IPAdapter Model Loader"): ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
    ("ip_adapter_xlabs", "LoadFluxIPAdapter"): [
        "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight",
        "ip_adapter_proj_model.proj.weight",
    ],
    ("motion_module", "AnimateDiff"): ["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"],
    ("lora_xlabs", "Load Flux LoRA"): [
        "double_blocks.0.processor.proj_lora1.down.weight",
        "double_blocks.0.processor.qkv_lora2.up.weight",
    ],
    ("kohya_lora", "Load LoRA"): [
        "lora_unet_down_blocks_0_attentions_0_proj_in.alpha",
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    ],
    ("lora", "Load LoRA"): ["unet.down_blocks.0.attentions.0.attn1.processor.to_q_lora.down.weight"],
    ("embedding", "models/embeddings"): ["emb_params"],
    ("checkpoint", "Load Checkpoint"): [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.output_blocks.0.0.in_layers.0.weight",
        "first_stage_model.decoder.mid.block_1.norm1.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.layer_norm1.weight",
    ],
    ("gligen", "Load GLIGEN Model"): [
        "position_net.null_positive_feature",
        "output_blocks.3.1.transformer_blocks.0.fuser.linear.weight",
    ],
    ("ldm_unet", "Load Diffusion Model"): ["input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight"],
    ("diffusers_unet", "Load Diffusion Model"): [
        "conv_in.weight",
        "time_embedding.linear_1.weight",
        "up_blocks.0.resnets.0.norm1.weight",
    ],
    ("wan_vace", "WanVaceToVideo"): ["vace_patch_embedding.weight", "head.modulation"],
    ("wan", "Load Diffusion Model"): ["head.modulation", "blocks.0.self_attn.q.weight"],
    ("auraflow", "Load Diffusion Model"): ["double_layers.0.attn.w1q.weight"],
    ("auraflow_diffusers", "Load Diffusion Model"): [
        "joint_transformer_blocks.0.attn.add_k_proj.weight",
        "single_transformer_blocks.0.attn.to_q.weight",
    ],
    ("hunyuan_dit_base", "Load Diffusion Model"): ["mlp_t5.0.weight", "blocks.0.attn1.q_norm.weight"],
    ("pixart", "Load Diffusion Model"): ["t_block.1.weight", "blocks.0.attn.qkv.weight"],
    ("pixart_diffusers", "Load Diffusion Model"): [
        "adaln_single.emb.timestep_embedder.linear_1.bias",
        "pos_embed.proj.bias",
    ],
    ("ltxv", "Load Diffusion Model"): [
        "adaln_single.emb.timestep_embedder.linear_1.bias",
        "patchify_proj.weight",
    ],
    ("cosmos", "Load Diffusion Model"): ["net.blocks.block0.blocks.0.block.attn.to_q.0.weight"],
    ("cosmos_predict2", "Load Diffusion Model"): [
        "net.blocks.0.mlp.layer1.weight",
        "net.x_embedder.proj.1.weight",
    ],
    ("hidream", "Load Diffusion Model"): ["caption_projection.0.linear.weight"],
    ("cascade_base", "Load Diffusion Model"): [
        "clf.1.weight",
        "clip_txt_mapper.weight",
        "down_blocks.0.0.channelwise.0.weight",
    ],
    ("sd3_diffusers", "Load Diffusion Model"): [
        "pos_embed.proj.weight",
        "transformer_blocks.0.attn.add_q_proj.weight",
    ],
    ("dit", "Load Diffusion Model"): ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"],
    ("ldm_vae", "Load VAE"): ["decoder.conv_in.weight", "decoder.mid.block_1.norm1.weight"],
    ("diffusers_vae", "Load VAE"): ["decoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.weight"],
    ("video_vae", "Load VAE"): ["decoder.middle.0.residual.0.gamma", "encoder.conv1.weight"],
    ("cascade_vae", "Load VAE"): ["vquantizer.codebook.weight"],
    ("taesd", "models/vae_approx"): ["1.weight", "3.conv.0.weight", "3.conv.2.weight"],
    ("text_encoder", "Load CLIP"): ["text_model.encoder.layers.0.layer_norm1.weight"],
    ("clip_vision", "Load CLIP Vision"): ["vision_model.encoder.layers.0.layer_norm1.weight"],
    ("upscaler", "Load Upscale Model"): ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"],
}  # fmt: skip

MORE_KEYS = {
    "t2i_adapter": [
        ["conv_in.weight", "conv_in.bias", "body.0.block1.weight", "body.2.down_opt.op.weight"],
        ["body.0.in_conv.weight"],
        ["adapter.body.0.resnets.0.block1.weight"],
        ["adapter.conv_in.weight", "adapter.body.0.block1.weight"],
    ],
    "lllite": [["lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight"]],
    "kohya_lora": [["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"]],
    "lora": [
        # ComfyUI converts XLabs' LoRA where it has all blocks.
        [
            "double_blocks.18.processor.qkv_lora2.up.weight",
            "single_blocks.37.processor.qkv_lora.down.weight",
            "single_blocks.37.processor.qkv_lora.up.weight",
        ],
        ["transformer.single_blocks.0.attn.to_k.lora_A.weight"],
        ["diffusion_model.blocks.0.self_attn.q.lora_down.weight"],
    ],
    "wan": [["model.diffusion_model.head.modulation"]],
    "video_vae": [
        ["decoder.conv_in.conv.weight", "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight"],
        ["decoder.unpatcher3d.wavelets"],
    ],
    "cascade_vae": [["backbone.0.0.weight", "backbone.1.0.block.0.1.num_batches_tracked"]],
    "taesd": [["0.weight", "1.conv.0.weight"], ["decoder.22.bias"], ["taesd_decoder.1.weight"]],
    "ltxv_duration": [["model.diffusion_model.duration_head.attention_pooler.query_tokens"]],
    "ltxv": [
        [
            "adaln_single.emb.timestep_embedder.linear_1.bias",
            "duration_head.attention_pooler.query_tokens",
        ]
    ],
    "cascade": [["backbone.10.blocks.0.weight", "projections.0.0.weight"]],
    "embedding": [["clip_l", "clip_g"], ["string_to_param.*"]],
    "ldm_unet": [["model.diffusion_model.output_blocks.0.0.in_layers.0.weight"]],
    "text_encoder": [
        ["encoder.block.0.layer.0.SelfAttention.q.weight"],
        ["model.layers.0.self_attn.q_proj.weight"],
    ],
}


def tensors(keys):
    return {key: torch.zeros(1) for key in keys}


def test_names_are_looked_through_as_often_whatever_the_number_of_blocks():
    """Else some hundred kilobytes of names take minutes."""

    class Counted(dict):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    def passes(blocks: int) -> int:
        state = Counted(
            {f"input_blocks.{i}.0.out_layers.3.weight": torch.empty(32, 32, 3, 3) for i in range(blocks)}
        )
        state["input_blocks.0.0.weight"] = torch.empty(32, 4, 3, 3)
        assert encoder_config(state).num_res_blocks == (blocks - 1,)
        return state.passes

    assert passes(500) == passes(5)


@pytest.mark.parametrize(("family", "mend"), KEYS, ids=[family for family, _ in KEYS])
def test_refused_with_the_node_that_takes_it(write, family, mend):
    path = write(tensors(KEYS[family, mend]))
    found = identify(read_state_dict(path))
    assert found.id == family
    assert found.kind == ("host" if mend == HOST else "other")
    for load in (open_control, load_controlnet):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        message = str(caught.value)
        assert str(path) in message and found.name in message and mend in message


@pytest.mark.parametrize(
    ("family", "keys"), [(family, keys) for family, lists in MORE_KEYS.items() for keys in lists]
)
def test_other_spellings(write, family, keys):
    assert identify(read_state_dict(write(tensors(keys)))).id == family


@pytest.mark.parametrize(("width", "family"), [(512, "instantid"), (1280, "ip_adapter")])
def test_adapters_of_faces_and_of_pictures(write, width, family):
    names = ("image_proj.latents", "ip_adapter.1.to_k_ip.weight")
    path = write({**tensors(names), "image_proj.proj_in.weight": torch.zeros(8, width)})
    found = identify(read_state_dict(path))
    assert found.id == family and f"models/{family.replace('_', '')}" in str(
        refuse(read_state_dict(path), found)
    )


def test_every_family_is_tested_and_told_apart():
    native = {"control_lora", "ctrlora", "union", "diffusers_controlnet", "difference_controlnet"}
    native |= {"ldm_controlnet", "t2i_adapter", "lllite"}
    ids = [family.id for family in FAMILIES]
    assert len(set(ids)) == len(ids)
    assert set(ids) == native | {"instantid"} | {family for family, _ in KEYS}
    assert {family.id for family in FAMILIES if family.kind == "native"} == native
    assert all(family.mend for family in FAMILIES if family.kind != "native")


def test_unknown_keys(write):
    path = write(tensors(["foo.weight", "bar.weight"]))
    with pytest.raises(
        CheckpointError,
        match=r"net\.safetensors is not a ControlNet.*2 tensors.*bar\.weight.*Control-LoRA.*Flux",
    ):
        open_control(path)


def test_controlnets_of_every_layout(write, controlnet):
    state = controlnet.state_dict()
    for tensors, family in (
        (state, "ldm_controlnet"),
        ({f"control_model.{name}": tensor for name, tensor in state.items()}, "ldm_controlnet"),
        ({**state, "difference": torch.ones(())}, "difference_controlnet"),
        (to_diffusers(state, controlnet.config), "diffusers_controlnet"),
    ):
        found = identify(read_state_dict(write(tensors)))
        assert (found.id, found.kind) == (family, "native")


def test_a_base_unet_is_named(write, unet):
    for tensors in (unet.state_dict(), to_diffusers(unet.state_dict(), unet.config)):
        with pytest.raises(CheckpointError, match=r"UNet.*Load Diffusion Model"):
            open_control(write(tensors))


def test_a_new_family_is_one_entry(write):
    """A table with one more entry in front knows one more kind of file."""
    entry = Family("novel", "novel network", has_all("novel.weight"), mend="Wait for it.")
    file = read_state_dict(write(tensors(["novel.weight"])))
    assert identify(file, (entry, *FAMILIES)) is entry
    assert "novel network" in str(refuse(file, entry)) and "Wait for it." in str(refuse(file, entry))
