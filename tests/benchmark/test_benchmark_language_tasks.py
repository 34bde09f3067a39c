"""Captioning, questions and retrieval of captions on a tiny data set that can be memorised."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import fusar_klip.models as models
from fusar_klip import cli
from fusar_klip.benchmark import benchmark
from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.metrics.caption_metrics import (
    bleu4,
    bleu_statistics,
    cider,
    java_metrics,
    meteor,
    meteor_statistics,
    tokenise,
)
from fusar_klip.benchmark.metrics.retrieval_metrics import (
    DUPLICATES,
    ImageTextPairs,
    rerank,
    retrieval_scores,
)
from fusar_klip.benchmark.suite import load_suite
from fusar_klip.benchmark.tasks.captioning import CaptioningRow, caption_scores, evaluate_captioning
from fusar_klip.benchmark.tasks.label_retrieval import LabelRetrievalRow, evaluate_label_retrieval
from fusar_klip.benchmark.tasks.language import LanguageRow, read_language
from fusar_klip.benchmark.tasks.vqa import MostFrequentAnswers, VqaRow, evaluate_vqa
from fusar_klip.datasets.label_texts.generate import label_texts
from fusar_klip.datasets.label_texts.language_data import LanguageData, read_records
from fusar_klip.errors import CheckpointError, DatasetError, SettingsError
from fusar_klip.finetune.language.decoding import rank_answers
from fusar_klip.finetune.language.examples import answer_ids, question_examples
from fusar_klip.finetune.language.text_side import ImageTowerAdapter, copy_with_text_side
from fusar_klip.finetune.language.training import train_language
from fusar_klip.models import KlipNetwork, ModelRef, ModelSettings, Preprocess, Tokenizer
from fusar_klip.models.captioning import question_prompt
from fusar_klip.models.checkpoint import save_weights
from fusar_klip.models.pretrained.encoder import PretrainedEncoder, PretrainedNetwork
from fusar_klip.models.pretrained.registry import PRETRAINED

SETTINGS = ModelSettings(
    image_size=32,
    patch_size=8,
    image_width=48,
    image_depth=1,
    image_heads=2,
    text_width=48,
    text_depth=1,
    text_heads=2,
    text_dropout=0.0,
    embed_dim=16,
    max_tokens=64,
)
HALVES = (np.s_[:0], np.s_[:], np.s_[:18], np.s_[:, :14])
COMMON = {
    "dataset": "Patches",
    "path": "patches",
    "reader": "mask_folders",
    "split": "given",
    "batch_size": 16,
    "warmup_epochs": 2.0,
}


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four kinds of images, bright where the mask says so: nowhere, everywhere, or in one half.

    16 training images, and 8 test images like them.
    """
    data = tmp_path_factory.mktemp("language")
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 8)):
        for folder in ("images", "masks"):
            (data / "patches" / part / folder).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((32, 32), np.uint8)
            mask[HALVES[number % 4]] = 255
            pixels = (rng.integers(0, 40, (32, 32)) + mask * 0.7).astype(np.uint8)
            for folder, array in (("images", pixels), ("masks", mask)):
                Image.fromarray(array).save(data / "patches" / part / folder / f"{number:02d}.png")
    (data / "patches" / "classes.csv").write_text("value,name\n0,dry\n255,flooded\n")
    return data


@pytest.fixture(scope="module")
def base_run(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A randomly initialised RUN whose vocabulary knows the texts."""
    run = tmp_path_factory.mktemp("runs") / "base_run"
    run.mkdir()
    texts = [c for image in data_of(patches).images for c in image.captions]
    tokenizer = Tokenizer.train(
        [*texts, "Which landforms are in this image? What is the main landform?"], 300
    )
    torch.manual_seed(0)
    save_weights(KlipNetwork(SETTINGS, tokenizer), run / "model.safetensors")
    Preprocess(SETTINGS.image_size).save(run / "preprocess.json")
    tokenizer.save(run / "tokenizer.json")
    return str(run)


def data_of(patches: Path) -> LanguageData:
    return read_language(captioning(), patches / "patches")


def captioning(**changes: object) -> CaptioningRow:
    known = {"task": "captioning", "epochs": 110, "learning_rate": 3e-3, **COMMON}
    return CaptioningRow.model_validate(known | changes)


def vqa(**changes: object) -> VqaRow:
    known = {"task": "vqa", "epochs": 25, "learning_rate": 2e-3, **COMMON}
    return VqaRow.model_validate(known | changes)


def values(result: object) -> dict[str, float]:
    return {score.metric: score.value for score in result.scores}  # type: ignore[attr-defined]


def test_captions_are_learnt_and_the_model_stays_as_it_was(patches: Path, base_run: str) -> None:
    data, evaluated = data_of(patches), EvaluatedModel(ModelRef.parse(base_run), "m")
    model = evaluated.model
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    state = torch.random.get_rng_state()
    result = evaluate_captioning(captioning(beams=2), data, evaluated)
    scores = values(result)
    assert scores["bleu4"] > 0.9
    assert scores["cider"] > 4
    assert result.notes[0] == "wrote 4 different captions for 8 images."
    assert any("METEOR and SPICE are skipped" in note for note in result.notes)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert result.drawings[0].name == "captions"


def test_questions_are_learnt_by_ranking_and_by_writing(patches: Path, base_run: str) -> None:
    data, evaluated = data_of(patches), EvaluatedModel(ModelRef.parse(base_run), "m")
    ranked = evaluate_vqa(vqa(), data, evaluated)
    scores = {score.metric: score for score in ranked.scores}
    assert list(scores) == ["overall_accuracy", "main_land", "all_land", "regional_land"]
    assert scores["overall_accuracy"].n == len(data.asked("test")) == 8 * 6
    assert scores["main_land"].value == scores["all_land"].value == 1
    assert scores["regional_land"].value > 0.85
    # Without a look at the image: half of the images, and five of eight quarters.
    assert scores["main_land"].chance == 0.5
    assert scores["regional_land"].chance == pytest.approx(0.625)
    assert scores["regional_land"].ci_unit == "image"
    assert [drawing.name for drawing in ranked.drawings] == ["questions", "heat-maps"]
    written = evaluate_vqa(vqa(answer_by="write", questions_per_kind=5), data, evaluated)
    assert {score.metric: score.n for score in written.scores}["regional_land"] == 5
    assert values(written)["main_land"] > 0.9


def test_captions_are_retrieved_after_tuning(patches: Path, base_run: str) -> None:
    data = data_of(patches)
    row = LabelRetrievalRow.model_validate(
        {"task": "label_retrieval", "epochs": 60, "learning_rate": 2e-3, "shortlist": 12, **COMMON}
    )
    result = evaluate_label_retrieval(row, data, EvaluatedModel(ModelRef.parse(base_run), "m"))
    scores = {score.metric: score for score in result.scores}
    # Two test images of each kind share all texts: strict recall cannot distinguish them.
    assert scores["text_to_image_r1"].value == pytest.approx(0.5, abs=0.13)
    assert scores["mean_recall_duplicates"].value > 0.9
    assert scores["mean_recall_reranked_duplicates"].value > 0.8
    assert scores["text_to_image_r1_duplicates"].chance == pytest.approx(0.25)
    assert scores["image_to_text_r1"].n == 8
    assert len(result.queries) == 4


def test_the_paper_s_losses_run_and_the_same_seed_gives_the_same(patches: Path, base_run: str) -> None:
    data, model = data_of(patches), models.load(base_run)
    images = np.stack([model.preprocess.resize(image.file) for image in data.images])
    row = captioning(preset="paper", epochs=2)
    assert row.losses == ("itc", "itm", "mlm")
    assert row.learning_rate == 3e-3
    assert row.preset_label.startswith("paper+batch_size=16+warmup_epochs=2.0+epochs=2")
    weights = [train_language(model, images, data, row, "captions").network.state_dict() for _ in range(2)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    start = model.network.state_dict()
    for name in ("matching_head.weight", "image_projection.weight", "decoder.cls.predictions.bias"):
        assert not torch.equal(start[name], weights[0][name])


def test_late_fusion_is_tuned_too(patches: Path, base_run: str) -> None:
    data, model = data_of(patches), models.load(base_run)
    late = SETTINGS.model_copy(update={"text_depth": 2, "fusion_layers": 1})
    fast = models.Klip(KlipNetwork(late, model.tokenizer), model.preprocess, model.tokenizer)
    images = np.stack([model.preprocess.resize(image.file) for image in data.images])
    row = captioning(preset="paper", epochs=1)
    learnt = train_language(fast, images, data, row, "captions")
    assert not torch.equal(learnt.network.matching_head.weight, fast.network.matching_head.weight)


def test_an_epoch_asks_each_question_once_and_shows_no_image_twice(patches: Path, base_run: str) -> None:
    data, model = data_of(patches), models.load(base_run)
    examples, steps = question_examples(data, model.tokenizer, vqa(batch_size=6))
    batches = list(examples(0))
    assert len(batches) == steps
    assert all(len({example.image for example in batch}) == len(batch) <= 6 for batch in batches)
    seen = [(example.image, tuple(example.prompt)) for batch in batches for example in batch]
    assert len(seen) == len(set(seen)) == len(data.asked("train"))
    assert [b[0].image for b in examples(1)] != [b[0].image for b in batches]
    assert next(iter(examples(0))) == batches[0]


def test_ranking_takes_the_answer_that_is_likeliest(patches: Path, base_run: str) -> None:
    data, model = data_of(patches), models.load(base_run)
    tokenizer, network = model.tokenizer, model.network
    texts = ["dry", "flooded", "dry, flooded", "the main landform"]
    candidates = [answer_ids(tokenizer, text, 32) for text in texts]
    prompts = [
        question_prompt(tokenizer, question, 32) for question in ("What is it?", "Which landforms are there?")
    ]
    images = np.stack([model.preprocess.resize(image.file) for image in data.images[:2]])
    plain = []
    with torch.inference_mode():
        for image, prompt in zip(images, prompts, strict=True):
            memory = network.image_kv(network.image_tokens(model.preprocess.standardise(image[None])))
            ids_bl, mask_bl = tokenizer.pad([prompt])
            context = network.fuse(ids_bl, mask_bl, memory)
            likelihoods = []
            for answer in candidates:
                tokens = torch.tensor([[network.special.cls_id, *answer[:-1]]])
                logits = network.decode(tokens, context, mask_bl, memory)[0].log_softmax(1)
                likelihoods.append(sum(logits[t, token].item() for t, token in enumerate(answer)))
            plain.append(int(np.argmax(likelihoods)))
    assert rank_answers(model, images, [0, 1], prompts, candidates) == plain


def test_a_model_without_decoder_gets_a_random_text_side(patches: Path, base_run: str) -> None:
    data, own = data_of(patches), models.load(base_run)
    tower = models.load(f"untrained:{base_run}").network.image_tower
    preprocess = Preprocess(32, 0.4, 0.3)
    encoder = PretrainedEncoder(
        PRETRAINED["mae"], PretrainedNetwork(tower, None, None), preprocess, "mae:weights.pth"
    )
    row = captioning(text_side=base_run, epochs=1, tokens=40)
    copy = copy_with_text_side(encoder, row)
    assert isinstance(copy.network.image_tower, ImageTowerAdapter)
    assert copy.preprocess == preprocess
    assert copy.network.settings.max_tokens == 40
    weight = copy.network.text_projection.weight
    assert not torch.equal(weight, own.network.text_projection.weight)
    images = np.stack([preprocess.resize(image.file) for image in data.images])
    learnt = train_language(encoder, images, data, row, "captions")
    assert not torch.equal(
        learnt.network.image_tower.tower.blocks[0].mlp.fc1.weight, tower.blocks[0].mlp.fc1.weight
    )
    with pytest.raises(CheckpointError, match="text_side = RUN"):
        copy_with_text_side(encoder, captioning())
    fresh = copy_with_text_side(own, captioning(fresh_text_side=True)).network
    assert not torch.equal(fresh.matching_head.weight, own.network.matching_head.weight)
    assert torch.equal(fresh.image_tower.cls_token, own.network.image_tower.cls_token)


def test_rows_are_checked() -> None:
    with pytest.raises(ValueError, match="losses need mlm"):
        captioning(losses=["itc"])
    with pytest.raises(ValueError, match="reader"):
        captioning(reader="mstar")
    paper = VqaRow.model_validate(
        {"task": "vqa", "preset": "paper", **{k: COMMON[k] for k in list(COMMON)[:4]}}
    )
    assert (paper.epochs, paper.learning_rate, paper.tokens, paper.preset_label) == (12, 2e-5, 35, "paper")


def test_a_part_without_questions_says_so(patches: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    label_texts("mask_folders", patches / "patches", texts)
    kept = [line for line in (texts / "questions.jsonl").read_text().splitlines() if '"train"' in line]
    (texts / "questions.jsonl").write_text("\n".join(kept))
    with pytest.raises(DatasetError, match="no test questions"):
        read_language(vqa(reader="label_texts"), texts)
    assert read_language(captioning(reader="label_texts"), texts).images == read_records(texts, "T").images


def test_the_most_frequent_answer_is_that_of_the_same_question(patches: Path) -> None:
    usual = MostFrequentAnswers(data_of(patches).asked("train"))
    questions = data_of(patches).asked("test")
    assert {usual.answer(q) for q in questions if q.kind == "all_land"} == {"dry, flooded"}
    assert usual.candidates("all_land") == ["dry", "dry, flooded", "flooded"]
    assert usual.candidates("target_count") == []


REFERENCES = (
    (
        "two ships in the upper left",
        "there are two ships , in the upper left",
        "a radar view of two ships",
    ),
    ("one ship is in the centre", "a ship in the centre of the image"),
    ("no target can be seen here", "there is no target in this sar image"),
    ("nearly all of the ground is dry", "most of this image is dry"),
)
WRITTEN = (
    "there are two ships in the centre",
    "a ship is in the centre",
    "no target in this sar image",
    "most of the ground is flooded",
)


def test_bleu_and_cider_are_pycocoevalcap_s() -> None:
    """The figures are those of tylin/coco-caption's bleu_scorer.py and cider_scorer.py (commit 49be6f3)."""
    written = [text.split() for text in WRITTEN]
    references = [[text.split() for text in each] for each in REFERENCES]
    sums = bleu_statistics(written, references).sum(axis=0, keepdims=True)
    assert bleu4(sums)[0] == pytest.approx(0.7911171507836477, abs=1e-9)
    expected = [3.28932594, 5.63563087, 4.82322406, 2.65036925]
    assert cider(written, references) == pytest.approx(expected, abs=1e-6)


VOCABULARY = (
    "two",
    "ships",
    "ship",
    "vessel",
    "are",
    "in",
    "the",
    "upper",
    "left",
    "of",
    "a",
    "dry",
    "water",
)


def random_captions(seed: int, images: int) -> tuple[list[str], list[list[str]]]:
    """One caption an image, some empty, and one to four references, now and then the caption itself."""
    rng = np.random.default_rng(seed)

    def words(least: int) -> str:
        return " ".join(rng.choice(VOCABULARY, rng.integers(least, 9)))

    written = [words(0) for _ in range(images)]
    references = [[words(1) for _ in range(rng.integers(1, 5))] for _ in range(images)]
    for caption, truths in zip(written, references, strict=True):
        if caption and rng.random() < 0.2:
            truths.append(caption)
    return written, references


@pytest.mark.parametrize("seed", range(6))
def test_bleu_and_cider_agree_with_the_installed_scorers(seed: int) -> None:
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    theirs = bleu.BleuScorer(n=4)
    captions, truths = random_captions(seed, 1 + 7 * seed)
    for text, each in zip(captions, truths, strict=True):
        theirs += (text, each)
        scorer += (text, each)
    written = [text.split() for text in captions]
    references = [[text.split() for text in each] for each in truths]
    sums = bleu_statistics(written, references).sum(axis=0, keepdims=True)
    assert bleu4(sums)[0] == pytest.approx(theirs.compute_score(option="closest")[0][3], abs=1e-9)
    assert cider(written, references) == pytest.approx(scorer.compute_score()[1], abs=1e-9)


@pytest.mark.slow  # Java reads METEOR's paraphrases for ten seconds
def test_meteor_of_the_sums_is_the_installed_one_s(java: None) -> None:
    module = pytest.importorskip("pycocoevalcap.meteor.meteor")
    written, references = random_captions(4, 25)
    scorer = module.Meteor()
    sums = meteor_statistics(scorer, written, references)
    whole, each = scorer.compute_score(dict(enumerate(references)), {n: [t] for n, t in enumerate(written)})
    scorer.meteor_p.kill()
    scorer.meteor_p.communicate()
    assert meteor(sums) == pytest.approx(each, abs=1e-9)
    assert meteor(sums.sum(axis=0, keepdims=True))[0] == pytest.approx(whole, abs=1e-9)
    assert abs(whole - np.mean(each)) > 0.01  # METEOR of many captions is not the mean of theirs


SENTENCES = (
    "There is one ship, in the centre.",
    "A left-hand turn: 3.5 m (about 70%)!",
    "It isn't dry; it's flooded... It cannot be water?!",
    '"Quoted" words -- here',
    "Two targets of type A320/321 and one of type Boeing737, all on the left.",
    "Ships' hulls [old], e.g. the U.S. ship's, at 10:30; no_data is {x}",
    "1,234 boats - 100% of $5 * #3!!",
    "",
)


def test_words_are_those_of_the_installed_ptb_tokenizer(java: None) -> None:
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    theirs = module.PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(SENTENCES)})
    assert {n: [" ".join(tokenise(text))] for n, text in enumerate(SENTENCES)} == theirs


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("There is one ship, in the centre.", "there is one ship in the centre"),
        ("A left-hand turn: 3.5 m (about 70%)!", "a left-hand turn 3.5 m -lrb- about 70 % -rrb-"),
        ("It isn't dry; it's flooded...", "it is n't dry it 's flooded"),
        ('"Quoted" words -- here', "quoted words here"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_ptb_tokenizer(caption: str, words: str) -> None:
    assert tokenise(caption) == words.split()


def test_a_perfect_caption_and_an_empty_one() -> None:
    scores, missing = caption_scores(
        ["one ship in the centre", ""], [["one ship in the centre"]] * 2, None, 0, "one"
    )
    of_metric = {score.metric: score.value for score in scores}
    assert of_metric["cider"] == pytest.approx(0)  # both images have the same words: no IDF weight
    perfect, _ = caption_scores(list(WRITTEN), [[t] for t in WRITTEN], None, 0, WRITTEN[0])
    assert {s.metric: s.value for s in perfect}["bleu4"] == pytest.approx(1)
    assert {s.metric: s.value for s in perfect}["cider"] == pytest.approx(10)
    chance_levels = {s.metric: s.chance for s in perfect}
    assert chance_levels["cider"] == pytest.approx(2.5, abs=0.5)  # the first of four is right
    assert 0 < chance_levels["bleu4"] < 0.5
    assert bool(missing) == (not {"meteor", "spice"} <= of_metric.keys())


def test_missing_java_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    assert java_metrics([["a"]], [[["a"]]]) == ({}, ["METEOR and SPICE are skipped: Java is not installed."])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert java_metrics([["a"]], [[["a"]]]) == (
        {},
        ["METEOR and SPICE are skipped: pycocoevalcap is not installed."],
    )


def test_java_that_answers_in_words_is_said(java: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("pycocoevalcap.meteor.meteor")

    def fail(*_: object) -> None:
        raise ValueError("could not convert string to float: 'Error'")

    monkeypatch.setattr(module.Meteor, "_stat", fail)
    scores, missing = java_metrics([["a"]], [[["a"]]])
    assert "meteor" not in scores
    assert "METEOR is skipped: Java's output cannot be read (could not convert" in missing[0]


def test_recall_with_several_texts_an_image() -> None:
    pairing = ImageTextPairs(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), None)
    similarity = np.array([[0.1, 0.9, 0.9, 0.2], [0.3, 0.4, 0.4, 0.8]])
    scores = {s.metric: s for s in retrieval_scores(similarity, similarity.T, pairing, (1,), "", 0)}
    # Image 0: its text 1 ties with the equal text 2. Texts 0 and 2 are found by the wrong image.
    assert scores["image_to_text_r1"].value == pytest.approx((0.5 + 1) / 2)
    assert scores["image_to_text_r1" + DUPLICATES].value == 1
    assert scores["text_to_image_r1"].value == pytest.approx((0.5 + 0.5) / 2)
    assert scores["text_to_image_r1" + DUPLICATES].value == pytest.approx((0.5 + 1) / 2)
    assert scores["image_to_text_r1"].chance == pytest.approx(0.5)
    assert scores["image_to_text_r1"].n == 2

    def match(image: int, texts: "list[int]") -> NDArray[np.float32]:
        return np.array([float(text == 2 * image) for text in texts], np.float32)

    image_to_text, _ = rerank(match, similarity, pairing, 4)  # type: ignore[arg-type]
    assert image_to_text.tolist() == [[3, 2, 2, 2], [2, 2, 2, 3]]


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    def write(*tasks: str, more: str = "") -> Path:
        shared = 'dataset = "Patches"\nreader = "mask_folders"\npath = "patches"\nsplit = "given"\n'
        rows = [f'[[row]]\ntask = "{task}"\n{shared}epochs = 1\nbatch_size = 8\n{more}' for task in tasks]
        (tmp_path / "suite.toml").write_text('name = "language"\n' + "\n".join(rows))
        return tmp_path / "suite.toml"

    return write


def test_a_suite_of_language_rows_is_reported(
    patches: Path, base_run: str, suite: Callable[..., Path], tmp_path: Path
) -> None:
    file = suite("label_retrieval", "captioning", "vqa")
    summary = benchmark([base_run], tmp_path / "out", suite=file, data=patches)
    metrics = {h["task"]: h["metric"] for h in summary.headlines}
    assert metrics == {"label_retrieval": "mean_recall", "captioning": "bleu4", "vqa": "overall_accuracy"}
    report = Path(summary.report_md).read_text()
    for words in (
        "BLEU-4",
        "CIDEr",
        "Main land",
        "ITC, then ITM",
        "is the most frequent answer to the same question",
    ):
        assert words in report
    assert len(list((tmp_path / "out" / "splits").glob("patches-given-*.csv"))) == 1
    again = benchmark([base_run], tmp_path / "out", suite=file, data=patches)
    assert (again.rows_run, again.rows_reused) == (0, 3)
    entries = json.loads(Path(summary.results).read_text())
    assert {entry["preset"] for entry in entries} == {"recommended+batch_size=8+epochs=1"}


def test_other_tasks_refuse_a_language_model(
    patches: Path, suite: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"llm:gpt-4o is a language model.*--task vqa"):
        benchmark(["llm:gpt-4o"], tmp_path / "out", suite=suite("captioning", "vqa"), data=patches)
    with pytest.raises(CheckpointError, match="names no model"):
        benchmark(["llm:"], tmp_path / "out", suite=suite("vqa"), data=patches)


def test_language_rows_name_unknown_keys(suite: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match='did you mean "beams"'):
        load_suite(suite("captioning", more="beam = 3\n"))
    assert issubclass(VqaRow, LanguageRow)


def test_a_kept_model_writes_and_answers_from_the_command_line(
    patches: Path, base_run: str, suite: Callable[..., Path], tmp_path: Path
) -> None:
    file = suite("captioning", "vqa", more="save = true\n")
    benchmark([base_run], tmp_path / "out", suite=file, data=patches)
    image = str(patches / "patches" / "test" / "images" / "00.png")
    kept = [tmp_path / "out" / "models" / f"base-run-{task}-patches" for task in ("captioning", "vqa")]
    run = CliRunner().invoke(cli.app, ["caption", image, "--checkpoint", str(kept[0]), "--json"])
    assert run.exit_code == 0
    assert set(json.loads(run.stdout)["captions"]) == {image}
    question = "What is the main landform in this SAR image?"
    run = CliRunner().invoke(cli.app, ["ask", image, question, "--checkpoint", str(kept[1])])
    assert run.exit_code == 0
    assert run.stdout == models.load(kept[1]).ask(image, question) + "\n"
    run = CliRunner().invoke(cli.app, ["ask", image, question, "--checkpoint", base_run])
    assert isinstance(run.exception, CheckpointError)


def test_an_encoder_without_text_side_is_refused_before_anything_runs(
    patches: Path, suite: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match=r"mae:weights\.pth has no fusion and no decoder.*text_side = RUN"
    ):
        benchmark(["mae:weights.pth"], tmp_path / "out", suite=suite("captioning"), data=patches)
    assert not (tmp_path / "out").exists()
