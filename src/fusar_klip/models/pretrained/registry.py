"""The published vision encoders that can be used by name (paper, table 2 and section 4.3, and newer ones).

Data only: nothing heavy is imported, and no weights are loaded. `sources` names the repository, the file and
the first digits of the commit that layout and values were read from; `note` states what could not be found.

An 8-bit SAR chip has one channel. A tower of C channels reads the same chip C times, each standardised with
that channel's mean and standard deviation; the loader sums this into one kernel with the same output
(`single_channel`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fusar_klip.models.capability import Capability

Layout = Literal["clip", "mmseg", "timm", "prithvi", "dinov3", "irpe", "hivit"]
"""How a project names its tensors; a key of `key_layouts.READERS`."""
RESAMPLED_LAYOUTS = frozenset[Layout]({"clip", "mmseg", "timm", "prithvi", "irpe"})
"""Layouts of plain ViTs, whose position embeddings `PlainViT` can resample. HiViT is no plain ViT, and DINOv3
applies rotary positions within attention."""
Pooled = Literal["class token", "mean of patch tokens"]
TextLayout = Literal["clip", "blip"]

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# BAN writes CLIP's values in 0 to 255.
_BAN = ((122.7709 / 255, 116.746 / 255, 104.0937 / 255), (68.5005 / 255, 66.6322 / 255, 70.3232 / 255))
_NONE = ((0.0,), (1.0,))
# FUSAR-KLIP's own, for weights whose values do not apply to an 8-bit chip.
_CHIP = ((0.5,), (0.25,))


@dataclass(frozen=True)
class PretrainedSpec:
    """One project: how its weights are read, its input and feature, its licence and download."""

    title: str
    publication: str
    backbone: str
    """The published sizes. The loader reads width, depth and patch size from the file."""
    patch: str
    """Side of a patch in pixels, for each backbone."""
    channels: int
    """Channels of the published weights; the loader reads them from the file."""
    layout: Layout
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and std of the channels, in 0 to 1; one value stands for all channels."""
    licence: str
    """Licence of the weights as the project states it; "not stated" where none was found."""
    weights: str
    """Where to download the weights, in words."""
    sources: tuple[str, ...]
    """Where layout and values were read."""
    size: int | None = None
    """Side of the input in pixels; None: the size of the file's position embedding."""
    prefixes: tuple[str, ...] = ()
    """Prefixes of the image tower's names in files of the whole model; the first that matches is removed."""
    pooled: Pooled = "class token"
    """The feature of `features`, after the last norm in the file, before any projection."""
    texts: TextLayout | None = None
    """Layout of the text tower; None: the project has none that shares a space with its image tower."""
    quick_gelu: bool = False
    """Whether it was trained with OpenAI's approximation of GELU."""
    gelu_widths: tuple[int, ...] = ()
    """Image widths that are exceptions from `quick_gelu`."""
    heads: Mapping[int, int] = field(default_factory=dict)
    """Attention heads by width, where a head is not 64 (from width 1280: 80) wide."""
    eps: float = 1e-6
    """Epsilon of the layer norms."""
    class_tokens: int = 1
    """How often the class embedding is added to the first token."""
    note: str = ""
    """What is unknown, and what a user has to know."""

    @property
    def fed(self) -> str:
        """How a one-channel chip becomes the input."""
        return "as it is" if self.channels == 1 else f"repeated {self.channels} times"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the published models can do; a single file may lack the text tower or the matching head."""
        found: set[Capability] = {"image_features"}
        if self.layout in RESAMPLED_LAYOUTS:
            found.add("patch_grid")
        if self.texts is not None:
            found.add("text_features")
        if self.texts == "blip":
            found.add("matching")
        return frozenset(found)


PRETRAINED: dict[str, PretrainedSpec] = {
    "clip": PretrainedSpec(
        title="CLIP",
        publication="ICML 2021",
        backbone="ViT-B, ViT-L",
        patch="32, 16; 14",
        channels=3,
        layout="clip",
        normalisation=_CLIP,
        quick_gelu=True,
        eps=1e-5,
        texts="clip",
        licence="MIT",
        weights="OpenAI's CLIP repository; Hugging Face: openai/clip-vit-base-patch16 and others of its kind",
        sources=("timm timm/models/vision_transformer.py (_convert_openai_clip)", "transformers CLIPModel"),
        note="OpenAI's own .pt files are TorchScript archives, which hold code: save their state_dict first. "
        "Weights that are not OpenAI's use plain GELU: a folder's config.json says so, a single file cannot.",
    ),
    "blip": PretrainedSpec(
        title="BLIP",
        publication="ICML 2022",
        backbone="ViT-B, ViT-L",
        patch="16",
        channels=3,
        layout="timm",
        prefixes=("visual_encoder.",),
        normalisation=_CLIP,
        texts="blip",
        licence="BSD-3-Clause",
        weights="Salesforce's BLIP repository: the pre-trained or the image-text retrieval files (.pth)",
        sources=("salesforce/BLIP models/blip_retrieval.py 97a975f", "transformers BlipTextModel"),
        note="Texts need BERT's vocab.txt beside the file. Captioning and question files have no text tower "
        "for retrieval. The names of transformers' copy are not supported.",
    ),
    "remoteclip": PretrainedSpec(
        title="RemoteCLIP",
        publication="TGRS 2024",
        backbone="ViT-B, ViT-L",
        patch="32; 14",
        channels=3,
        layout="clip",
        normalisation=_CLIP,
        eps=1e-5,
        texts="clip",
        licence="not stated",
        weights="Hugging Face: chendelong/RemoteCLIP, file RemoteCLIP-ViT-B-32.pt or RemoteCLIP-ViT-L-14.pt",
        sources=("ChenDelong1999/RemoteCLIP README.md 04873e7",),
        note="Plain GELU, as its README loads it. Its ResNet-50 is not supported.",
    ),
    "georsclip": PretrainedSpec(
        title="GeoRSCLIP",
        publication="TGRS 2024",
        backbone="ViT-B, ViT-H",
        patch="32; 14",
        channels=3,
        layout="clip",
        normalisation=_CLIP,
        quick_gelu=True,
        gelu_widths=(1280,),
        eps=1e-5,
        texts="clip",
        licence="MIT (repository); weights: not stated",
        weights="RS5M's repository (om-ai-lab) names the Hugging Face folder; RS5M_ViT-B-32.pt, "
        "RS5M_ViT-H-14.pt",
        sources=(
            "om-ai-lab/RS5M inference/inference.py 1cf3906, inference/inference_tool.py d83abfb, LICENSE",
        ),
        note="ViT-B/32 started from OpenAI's weights (QuickGELU), ViT-H/14 from LAION's (GELU).",
    ),
    "skyscript": PretrainedSpec(
        title="SkyScript (SkyCLIP)",
        publication="AAAI 2024",
        backbone="ViT-B, ViT-L",
        patch="32; 14",
        channels=3,
        layout="clip",
        normalisation=_CLIP,
        quick_gelu=True,
        gelu_widths=(768,),
        eps=1e-5,
        texts="clip",
        licence="MIT (repository)",
        weights="SkyScript's repository (wangzhecheng): SkyCLIP_ViT_B32_top50pct and SkyCLIP_ViT_L14_*, "
        "zipped",
        sources=("wangzhecheng/SkyScript README.md 15d5986, LICENSE",),
        note="ViT-L/14 started from OpenAI's weights (QuickGELU), ViT-B/32 from LAION's (GELU); which of "
        "the two its own evaluation uses was not found.",
    ),
    "ban": PretrainedSpec(
        title="BAN",
        publication="TGRS 2024",
        backbone="ViT-B, ViT-L",
        patch="16; 14",
        channels=3,
        layout="mmseg",
        prefixes=("image_encoder.",),
        normalisation=_BAN,
        quick_gelu=True,
        eps=1e-5,
        licence="not stated",
        weights="Hugging Face: likyoo/BAN, folder checkpoint (or pretrain), .pth",
        sources=(
            "likyoo/BAN tools/model_converters/clip2opencd.py ba93387, configs/_base_/models/ban_vit-b16.py",
        ),
        note="Its image encoder is CLIP's first 9 of 12 (or 18 of 24) blocks, frozen, without a last "
        "norm. Read from the code; no published file was seen.",
    ),
    "changeclip": PretrainedSpec(
        title="ChangeCLIP",
        publication="ISPRS 2024",
        backbone="ViT-B",
        patch="16",
        channels=3,
        layout="clip",
        prefixes=("backbone.",),
        normalisation=_IMAGENET,
        quick_gelu=True,
        eps=1e-5,
        class_tokens=2,
        licence="not stated",
        weights="ChangeCLIP's repository (dyzy41)",
        sources=(
            "dyzy41/ChangeCLIP mmseg/models/backbones/clip_backbone.py c0032d9, "
            "configs/0cd_ce/changeclip_levir_vit.py 7f9a4f1",
        ),
        note="Its forward adds the class embedding twice; so does the loader. Its text encoder reads learned "
        "contexts and is no tower of its own. No published file was seen.",
    ),
    "prithvi": PretrainedSpec(
        title="Prithvi",
        publication="IGARSS 2024",
        backbone="ViT-B",
        patch="16",
        channels=6,
        layout="prithvi",
        prefixes=("encoder.",),
        size=224,
        normalisation=_CHIP,
        licence="Apache-2.0",
        weights="Hugging Face: ibm-nasa-geospatial/Prithvi-EO-1.0-100M, file Prithvi_EO_V1_100M.pt",
        sources=("NASA-IMPACT/hls-foundation-os hls-gfm/models_mae.py 465aba8",),
        note="One frame of three, at the first frame's position. Its means are reflectances of six "
        "optical bands, which do not apply to a chip: mean 0.5 and std 0.25 are used. The prefix "
        "encoder. of Hugging Face file was read from others' loading code, not from its own. Prithvi 2.0 "
        "with a patch of 16 is supported too.",
    ),
    "geochat": PretrainedSpec(
        title="GeoChat",
        publication="CVPR 2024",
        backbone="ViT-L",
        patch="14",
        channels=3,
        layout="clip",
        size=504,
        normalisation=_CLIP,
        quick_gelu=True,
        eps=1e-5,
        licence="not stated",
        weights="The Hugging Face folder that GeoChat's repository (mbzuai-oryx) names; all its parts",
        sources=("mbzuai-oryx/GeoChat geochat/model/multimodal_encoder/clip_encoder.py 7a31eb9",),
        note="OpenAI's CLIP ViT-L/14-336 at 504 px, frozen in its code: the features are CLIP's, unless "
        "its files say otherwise. GeoChat itself reads the patch tokens before the last block; here the "
        "class token.",
    ),
    "vhm": PretrainedSpec(
        title="VHM",
        publication="AAAI 2025",
        backbone="ViT-L",
        patch="14",
        channels=3,
        layout="clip",
        normalisation=_CLIP,
        quick_gelu=True,
        eps=1e-5,
        licence="research only (data CC BY-NC 4.0; code Apache-2.0)",
        weights="VHM's repository (opendatalab) names the Hugging Face folder of the tuned CLIP: "
        "FitzPC/vhm_7b_pretrain_vit",
        sources=("opendatalab/VHM README.md 0c3b723",),
        note="CLIP ViT-L/14-336, its second half tuned. That the folder has transformers' names is "
        "assumed: no code was found.",
    ),
    "bita": PretrainedSpec(
        title="BITA",
        publication="TGRS 2024",
        backbone="ViT-L",
        patch="14",
        channels=3,
        layout="clip",
        prefixes=("visual_encoder.", ""),
        normalisation=_CLIP,
        quick_gelu=True,
        eps=1e-5,
        licence="not stated",
        weights="BITA's repository (yangcong356); its frozen image encoder is LAVIS's clip_vit_L.pth",
        sources=("yangcong356/BITA BITA/BITA/models/clip_vit.py 827801a, models/bita/bita_ift.py 024488b",),
        note="CLIP ViT-L/14 without its last blocks, frozen by default, so BITA's own files may lack it; "
        "give clip_vit_L.pth then. The norm ln_vision is used if the file has it.",
    ),
    "sar-jepa": PretrainedSpec(
        title="SAR-JEPA",
        publication="ISPRS 2024",
        backbone="ViT-B",
        patch="16",
        channels=1,
        layout="irpe",
        size=224,
        normalisation=_NONE,
        licence="not stated (its successor: CC BY-NC 4.0)",
        weights="SAR-JEPA's repository (waterdisappear) names the download",
        sources=(
            "waterdisappear/SAR-JEPA few_shot_classification/finetune/{vision_transformer_irpe,irpe}.py and "
            "trainers/MIM_linear.py 6cc7859, Pretraining/{models_lomar,util/datasets}.py",
        ),
        note="No position embedding, but contextual relative positions on the keys (iRPE). Pixels in 0 to "
        "1, not standardised further.",
    ),
    "mae": PretrainedSpec(
        title="MAE",
        publication="CVPR 2022",
        backbone="ViT-B, ViT-L, ViT-H",
        patch="16; 16; 14",
        channels=3,
        layout="timm",
        normalisation=_IMAGENET,
        licence="CC BY-NC 4.0",
        weights="Meta's MAE repository; the paper's own, trained on FUSAR-GEOVL-1M, is not published",
        sources=("its copies: NASA-IMPACT/hls-foundation-os hls-gfm/models_mae.py 465aba8",),
        note="Read from copies of its code. Class token, as its linear probe; its fine-tuning averages the "
        "patch tokens.",
    ),
    "moco-v3": PretrainedSpec(
        title="MoCo v3",
        publication="ICCV 2021",
        backbone="ViT-S, ViT-B",
        patch="16",
        channels=3,
        layout="timm",
        prefixes=("base_encoder.", "momentum_encoder."),
        heads={384: 12},
        normalisation=_IMAGENET,
        licence="CC BY-NC 4.0",
        weights="Meta's MoCo v3 repository; the paper's own, trained on FUSAR-GEOVL-1M, is not published",
        sources=(
            "facebookresearch/moco-v3 vits.py 1c6b717, moco/builder.py 0c5d00a, convert_to_deit.py 2877a78",
        ),
    ),
    "sarclip": PretrainedSpec(
        title="SARCLIP",
        publication="ISPRS 2026",
        backbone="ViT-B, ViT-L",
        patch="32, 16; 14",
        channels=3,
        layout="clip",
        normalisation=_CLIP,
        eps=1e-5,
        texts="clip",
        licence="MIT (repository); the data set has its own",
        weights="SARCLIP's repository (CAESAR-Radi): vit_b_32_model.safetensors and others",
        sources=("CAESAR-Radi/SARCLIP example.py 7ebe188, sar_clip/__init__.py fa75134, README.md",),
        note="Its package has open_clip's modules, so open_clip's names are used. Its model code, "
        "channels, normalisation (readtif) and activation were not found: channels are read from the "
        "file, CLIP's values and GELU are assumed. The year of publication is assumed. Its ResNets are not "
        "read.",
    ),
    "saratr-x": PretrainedSpec(
        title="SARATR-X",
        publication="TIP 2025",
        backbone="HiViT-B",
        patch="16",
        channels=3,
        layout="hivit",
        normalisation=_NONE,
        pooled="mean of patch tokens",
        licence="CC BY-NC 4.0",
        weights="Hugging Face: waterdisappear/SARATR-X, or by request to its authors",
        sources=(
            "zhangxiaosong18/hivit self_supervised/models/{models_hivit,models_hivit_mae}.py 2718339",
            "waterdisappear/SARATR-X README.md 259c5bb",
            "yanglanshi/SARATR-X pre-training/models/models_hivit_mae.py ccb062c",
        ),
        note="Pixels in 0 to 1 (Normalize is commented out in its README); channels are read from the "
        "file. Its own files were read in a public copy.",
    ),
    "sarmae": PretrainedSpec(
        title="SARMAE",
        publication="CVPR 2026",
        backbone="ViT-B, ViT-L",
        patch="16",
        channels=3,
        layout="timm",
        prefixes=("sar_encoder.",),
        normalisation=_IMAGENET,
        pooled="mean of patch tokens",
        licence="CC BY-NC 4.0",
        weights="Hugging Face: Wenquandan777/SARMAE, SARMAE_vitb_checkpoint-last or "
        "SARMAE_vitl_checkpoint-last",
        sources=(
            "MiliLab/SARMAE SARMAE_Pretrain/{models_vit,main_finetune}.py, models/mae_contrastive.py, "
            "dataset/transforms.py d6ec011, README.md 114b780",
        ),
        note="Pretrained with ImageNet's mean and std; its classification feeds pixels in 0 to 1 instead. "
        "The mean is computed after the last norm; its own fine-tuning puts a new norm after the mean.",
    ),
    "dinov2": PretrainedSpec(
        title="DINOv2",
        publication="TMLR 2024",
        backbone="ViT-S, ViT-B, ViT-L",
        patch="14",
        channels=3,
        layout="timm",
        size=224,
        normalisation=_IMAGENET,
        licence="Apache-2.0",
        weights="Meta's DINOv2 repository, with or without registers (.pth); or timm's",
        sources=("timm timm/models/vision_transformer.py (_convert_dinov2)",),
        note="ViT-g (SwiGLU) and transformers' names are not supported.",
    ),
    "dinov3": PretrainedSpec(
        title="DINOv3",
        publication="arXiv 2025",
        backbone="ViT-S, ViT-B, ViT-L",
        patch="16",
        channels=3,
        layout="dinov3",
        size=256,
        normalisation=_IMAGENET,
        eps=1e-5,
        licence="DINOv3 License",
        weights="Meta's DINOv3 repository, on request (.pth)",
        sources=("timm timm/models/eva.py (checkpoint_filter_fn, vit_base_patch16_dinov3_qkvb)",),
        note="The satellite weights have their own mean and std, which are not used. ViT-S+, H+ and 7B "
        "(SwiGLU) are not supported.",
    ),
}
"""The models by the name that stands before the colon: `remoteclip:FILE`."""
