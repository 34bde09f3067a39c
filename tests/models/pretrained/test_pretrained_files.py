"""Published weights: where they are read from, which are refused, and the table of `fusar-klip models`."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fusar_klip import cli
from fusar_klip.errors import CheckpointError
from fusar_klip.models import ModelRef
from fusar_klip.models.pretrained import PRETRAINED, model_table, weight_files
from fusar_klip.models.pretrained.single_channel import fold_channels
from published_checkpoints import MAKERS, WIDTH, clip, to_openai, vit

DOCS = Path(__file__).parents[3] / "docs"


def save(folder: Path, state: dict[str, torch.Tensor], name: str = "weights.pth") -> Path:
    torch.save({"model": state}, folder / name)
    return folder / name


def test_one_folded_kernel_is_the_repeated_chip() -> None:
    torch.manual_seed(0)
    grey = torch.rand(2, 1, 8, 8)
    for count in (1, 3, 6, 13):
        weight, bias = torch.randn(5, count, 4, 4), torch.randn(5)
        mean, std = tuple(np.linspace(0.2, 0.6, count)), tuple(np.linspace(0.1, 0.3, count))
        fed = (grey - torch.tensor(mean).float()[:, None, None]) / torch.tensor(std).float()[:, None, None]
        expected = torch.nn.functional.conv2d(fed, weight, bias, stride=4)
        kernel, offset = fold_channels(weight, bias, mean, std)
        seen = torch.nn.functional.conv2d(
            (grey - float(np.mean(mean))) / float(np.mean(std)), kernel, offset, stride=4
        )
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


def test_a_one_channel_file_of_a_colour_project_is_read_too(tmp_path: Path) -> None:
    model = vit(in_chans=1)
    encoder = ModelRef.parse(f"mae:{save(tmp_path, model.state_dict())}").load()
    mean, std = (float(np.mean(values)) for values in PRETRAINED["mae"].normalisation)
    tile = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    fed = (torch.from_numpy(tile)[None, None].float() / 255 - mean) / std
    with torch.no_grad():
        expected = model.forward_features(fed)[:, 0]
    np.testing.assert_allclose(encoder.features([tile]), expected, atol=1e-4)


def test_what_is_missing_and_left_over_is_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = vit().state_dict() | {"stray.weight": torch.zeros(3)}
    del state["blocks.0.norm1.bias"]
    caplog.set_level(logging.INFO)
    ModelRef.parse(f"mae:{save(tmp_path, state | {'decoder_pred.weight': torch.zeros(3, 3)})}").load()
    assert "missing blocks.0.norm1.bias; unused stray.weight" in caplog.text
    assert "left out decoder_pred (1)" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.mlp.fc2.weight": None, "blocks.1.mlp.fc2.weight": None}, "lacks .* of the weights"),
        ({"stray.weight": torch.zeros(100, 400)}, "weights too many"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(9, WIDTH)}, r"is \(9, 64\) instead of \(192, 64\)"),
        ({"patch_embed.proj.weight": None}, "holds no image tower of MAE"),
        ({"pos_embed": torch.zeros(1, 8, WIDTH)}, "does not have the sizes of a MAE"),
        ({"layer1.0.conv1.weight": torch.zeros(1), "patch_embed.proj.weight": None}, "holds no image tower"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1), "patch_embed.proj.weight": None}, "is a ResNet"),
    ],
)
def test_weights_that_do_not_fit(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    state = vit().state_dict() | change
    kept = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        ModelRef.parse(f"mae:{save(tmp_path, kept)}").load()


@pytest.mark.parametrize("wrong", ["clip", "ban", "saratr-x", "sar-jepa", "dinov3", "prithvi"])
def test_another_project_s_weights_are_refused(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"holds no image tower|does not have|lacks|too many|does not fit"
    ):
        ModelRef.parse(f"{wrong}:{save(tmp_path, vit().state_dict())}").load()


class Foreign:
    """Anything that is no tensor: reading it would run code."""


def test_nothing_but_tensors_is_read(tmp_path: Path) -> None:
    torch.save({"model": vit().state_dict(), "trainer": Foreign()}, tmp_path / "pickled.pth")
    with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
        ModelRef.parse(f"mae:{tmp_path / 'pickled.pth'}").load()
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
        ModelRef.parse(f"mae:{tmp_path / 'damaged.pth'}").load()
    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/code/__torch__.py", b"")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*weights\.pt"):
        ModelRef.parse(f"clip:{tmp_path / 'ViT-B-16.pt'}").load()


def test_folders_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="0 weight files"):
        ModelRef.parse(f"mae:{folder}").load()
    save(folder, vit().state_dict(), "one.pth")
    ModelRef.parse(f"mae:{folder}").load()
    asked: list[object] = []

    def snapshot(name: str, **options: object) -> str:
        asked.append((name, options.get("allow_patterns")))
        return str(folder)

    monkeypatch.setattr(weight_files, "snapshot_download", snapshot)
    monkeypatch.setattr(weight_files, "hf_hub_download", lambda name, file: str(folder / file))
    ModelRef.parse("mae:facebook/mae").load()
    ModelRef.parse("mae:facebook/mae/one.pth").load()
    assert [name for name, _ in asked] == ["facebook/mae", "facebook/mae"]
    # A file alone brings its vocabulary along, and not the owner's other weights.
    assert asked[1][1] is not None  # type: ignore[index]
    save(folder, vit().state_dict(), "two.pth")
    with pytest.raises(CheckpointError, match=r"2 weight files \(one\.pth, two\.pth\)"):
        ModelRef.parse(f"mae:{folder}").load()


def test_without_a_network_the_hub_is_a_mendable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="neither here nor on the hub"):
        ModelRef.parse("mae:nobody/nothing-at-all").load()


def test_a_language_model_s_parts(tmp_path: Path) -> None:
    source, _ = MAKERS["geochat"]("geochat", tmp_path)
    (tmp_path / "pytorch_model-00001-of-00002.bin").unlink()
    ModelRef.parse(f"geochat:{source}").load()
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-00002-of-00002\.bin"):
        ModelRef.parse(f"geochat:{source}").load()
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "a.bin"}}))
    with pytest.raises(CheckpointError, match="holds no image tower"):
        ModelRef.parse(f"geochat:{source}").load()
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="download the folder again"):
        ModelRef.parse(f"geochat:{source}").load()


def test_moco_s_base_encoder_is_taken_and_its_small_heads(tmp_path: Path) -> None:
    source, _ = MAKERS["moco-v3"]("moco-v3", tmp_path)
    assert _heads(f"moco-v3:{source}") == 1
    small = {key: torch.zeros(shape) for key, shape in _shapes(384).items()}
    assert _heads(f"moco-v3:{save(tmp_path, small)}") == 12
    assert _heads(f"mae:{save(tmp_path, small)}") == 6


def _heads(reference: str) -> int:
    tower: Any = ModelRef.parse(reference).load().image_tower
    return tower.blocks[0].attn.num_heads


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=32, embed_dim=width, depth=1, num_heads=6, num_classes=0)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("remotclip:weights.pt", "did you mean remoteclip:FILE?"),
        ("somebody:weights.pt", "fusar-klip models lists the names"),
        ("clip", "did you mean clip:FILE?"),
        ("clip:", "names no weights: write clip:FILE"),
        ("clip:./nothing.pt", "no weights at ./nothing.pt"),
        ("clip:nothing", "no weights at nothing"),
        ("nowhere/run", "give a RUN folder"),
    ],
)
def test_names_that_are_not_there(checkpoint: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelRef.parse(checkpoint).digest()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_digest_follows_name_weights_and_vocabulary(tmp_path: Path) -> None:
    file = save(tmp_path, vit().state_dict())
    first = ModelRef.parse(f"mae:{file}").digest()
    assert first == ModelRef.parse(f"mae:{file}").digest()
    assert first != ModelRef.parse(f"sarmae:{file}").digest()
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    second = ModelRef.parse(f"mae:{file}").digest()
    assert second != first
    save(tmp_path, {key: value + 1 for key, value in vit().state_dict().items()})
    assert ModelRef.parse(f"mae:{file}").digest() not in (first, second)


def test_the_verb_prints_the_table() -> None:
    result = CliRunner().invoke(cli.app, ["models", "--json"])
    assert result.exit_code == 0
    models = {entry["name"]: entry for entry in json.loads(result.stdout)["models"]}
    assert models.keys() == PRETRAINED.keys()
    assert models["prithvi"]["fed"] == "repeated 6 times"
    assert models["clip"]["tasks"] == ["classification", "detection", "segmentation", "retrieval"]
    assert models["blip"]["tasks"] == [*models["clip"]["tasks"], "re-ranking"]
    assert models["dinov3"]["tasks"] == ["classification"]
    plain = CliRunner().invoke(cli.app, ["models"]).stdout
    for width in (80, 120):
        table = model_table.drawn(width)
        assert max(map(len, table.splitlines())) <= width
        for name in PRETRAINED:
            assert f"\n {name} " in table
            assert f"\n {name} " in plain


def test_the_verb_prints_one_model() -> None:
    result = CliRunner().invoke(cli.app, ["models", "remoteclip"])
    assert result.exit_code == 0
    for words in ("TGRS 2024", "ChenDelong1999/RemoteCLIP", "fusar-klip benchmark remoteclip:FILE"):
        assert words in result.stdout
    result = CliRunner().invoke(cli.app, ["models", "remoteclip", "--json"])
    assert [entry["name"] for entry in json.loads(result.stdout)["models"]] == ["remoteclip"]
    with pytest.raises(CheckpointError, match=r"no published model remotclip; did you mean remoteclip\?"):
        model_table.details("remotclip")


def test_the_page_holds_the_tables() -> None:
    assert model_table.markdown() in (DOCS / "pretrained_models.md").read_text(encoding="utf-8")


def test_every_model_says_where_it_was_read_and_where_its_weights_are() -> None:
    for model in PRETRAINED.values():
        assert model.sources
        assert model.weights
        assert model.licence
        assert len(model.normalisation[0]) == len(model.normalisation[1])
        text = " ".join((model.weights, model.note, *model.sources))
        assert "http" not in text
        assert "|" not in text


def test_clip_inside_a_whole_file_of_open_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in to_openai(clip(True)).items()}}, tmp_path / "w.pt"
    )
    ModelRef.parse(f"clip:{tmp_path / 'w.pt'}").load()
    assert caplog.messages == []
