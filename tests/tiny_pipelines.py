"""The tiny random pipelines: one function a family, from torch's generator as it stands."""

from __future__ import annotations

from typing import Any

import tiny_text
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from contrapose.worlds.shapes.blueprint import assemble

GROUPS = {"norm_num_groups": 8, "layers_per_block": 1}
# An untrained network's latents come out as large as 1 / a(T): with few betas they stay near 1.
LAST_BETA = 0.002
ONE_LEVEL: dict[str, Any] = {
    "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D",),
}
"""Of a UNet that is asked for nothing which only a deeper one has."""


def build_sd(widths: tuple[int, int] = (16, 32)) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of latents [4, 8, 8] from torch's generator as it stands."""
    return _with_unet(
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def build_smallest(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """The same with a UNet of one level and no middle, for tests that train or draw and ask nothing of its layers."""
    pipe = _with_unet(**ONE_LEVEL)
    pipe.scheduler.register_to_config(prediction_type=prediction_type)
    return pipe


def _with_unet(**config: Any) -> StableDiffusionPipeline:
    tokenizer = tiny_text.clip_tokenizer()
    text_encoder, vae = tiny_text.clip_encoder(tokenizer, 32), _kl_autoencoder(4)
    unet = UNet2DConditionModel(sample_size=8, cross_attention_dim=32, attention_head_dim=2, **GROUPS, **config)
    pipe = assemble(vae, unet, text_encoder, tokenizer)
    pipe.scheduler.register_to_config(beta_end=LAST_BETA)
    return pipe


def build_sdxl() -> StableDiffusionXLPipeline:
    first, second = tiny_text.clip_tokenizer(), tiny_text.clip_tokenizer(pad_token="!")
    unet = UNet2DConditionModel(
        sample_size=8,
        transformer_layers_per_block=2,
        cross_attention_dim=16 + 24,
        attention_head_dim=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,  # six sizes and the second encoder's pooled text
        **ONE_LEVEL,
        **GROUPS,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(
        vae=_kl_autoencoder(4, scaling_factor=0.13025),
        text_encoder=tiny_text.clip_encoder(first, 16),
        text_encoder_2=tiny_text.projecting_clip_encoder(second, 24),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=scheduler,
    )


def build_sd3(with_t5: bool) -> StableDiffusion3Pipeline:
    first, second = tiny_text.clip_tokenizer(), tiny_text.clip_tokenizer(pad_token="!")
    third = tiny_text.t5_tokenizer() if with_t5 else None
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=48,  # T5's width, to which both CLIPs' 16 + 24 are padded
        caption_projection_dim=32,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        vae=_flow_autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=tiny_text.projecting_clip_encoder(first, 16),
        text_encoder_2=tiny_text.projecting_clip_encoder(second, 24),
        text_encoder_3=tiny_text.t5_encoder(third, 48) if third else None,
        tokenizer=first,
        tokenizer_2=second,
        tokenizer_3=third,
        transformer=_attentive(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def build_sana() -> SanaPipeline:
    tokenizer = tiny_text.gemma_tokenizer()
    blocks, channels, layers = ("ResBlock", "ResBlock", "EfficientViTBlock"), (8, 16, 32), (1, 1, 1)
    scales = ((), (), (5,))
    vae = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    transformer = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=8,
        patch_size=1,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, beta_schedule="linear"
    )
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text.gemma_encoder(tokenizer, 32),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    )


def build_pixart() -> PixArtSigmaPipeline:
    tokenizer = tiny_text.t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,  # the noise and a learned sigma
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=24,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text.t5_encoder(tokenizer, 24),
        vae=_kl_autoencoder(4, scaling_factor=0.13025),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", beta_end=LAST_BETA),
    )


def build_flux() -> FluxPipeline:
    first, second = tiny_text.clip_tokenizer(), tiny_text.t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=4 * 16,  # a 2x2 patch of latents is one token
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        axes_dims_rope=(4, 6, 6),
        joint_attention_dim=24,
        pooled_projection_dim=16,
        guidance_embeds=True,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return FluxPipeline(
        vae=_flow_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=tiny_text.clip_encoder(first, 16),
        text_encoder_2=tiny_text.t5_encoder(second, 24),
        tokenizer=first,
        tokenizer_2=second,
        transformer=_attentive(transformer),
        scheduler=scheduler,
    )


def build_z_image() -> ZImagePipeline:
    tokenizer = tiny_text.qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[1536, 512, 512],
    )
    return ZImagePipeline(
        vae=_flow_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=tiny_text.qwen_encoder(tokenizer, 24),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def build_qwen_image() -> QwenImagePipeline:
    tokenizer = tiny_text.qwen_tokenizer(QwenImagePipeline(*[None] * 5).prompt_template_encode)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[-0.76, -0.71, 0.11, 0.97],
        latents_std=[2.82, 1.45, 2.33, 1.22],
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=4 * 4,  # a 2x2 patch of latents is one token
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        axes_dims_rope=(4, 6, 6),
        joint_attention_dim=24,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
    )
    return QwenImagePipeline(
        vae=vae,
        text_encoder=tiny_text.qwen_seeing_encoder(tokenizer, 24),
        tokenizer=tokenizer,
        transformer=_attentive(transformer),
        scheduler=scheduler,
    )


def build_flux_2() -> Flux2KleinPipeline:
    tokenizer = tiny_text.qwen_tokenizer()
    vae = _kl_autoencoder(4, AutoencoderKLFlux2)
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.3, 3.0)
    transformer = Flux2Transformer2DModel(
        in_channels=4 * 4,  # a 2x2 patch of latents is one token
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        axes_dims_rope=(4, 4, 4, 4),
        joint_attention_dim=3 * 8,
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        vae=vae,
        text_encoder=tiny_text.qwen_writer(tokenizer, 8),
        tokenizer=tokenizer,
        transformer=_attentive(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _attentive(transformer: torch.nn.Module) -> Any:
    """Sharpen the attention, which else averages a few words with hundreds of pads that no mask hides."""
    for name, weight in transformer.named_parameters():
        if ".norm_q." in name or ".norm_k." in name or ".norm_added_" in name:
            torch.nn.init.constant_(weight, 3.0)
    return transformer


def _kl_autoencoder(channels: int, cls: type = AutoencoderKL, **config: Any) -> Any:
    """An autoencoder that halves the image."""
    return cls(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=channels,
        sample_size=16,
        **GROUPS,
        **config,
    )


def _flow_autoencoder(scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    """The autoencoder of the flow models: sixteen channels, shifted, and no convolutions around the latents."""
    return _kl_autoencoder(
        16, scaling_factor=scaling_factor, shift_factor=shift_factor, use_quant_conv=False, use_post_quant_conv=False
    )
