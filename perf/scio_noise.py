"""Does SCIO work? How well it finds sentences that are false by the truth, and what the cleaner texts bring.

The script simulates, builds and describes scenes. Then, for each kind of noise and each seed, it replaces a
fifth of all tiles' sentences by other tiles' sentences of the same field and task that are false by the truth
(`text_truth`): from any tile (`random`), or from one of the same scene type (`hard`). With `--truth labels`
tiles are the chips of SAR-ACD and MSTAR, texts are made from their labels (`label_chips`), and `hard` takes
sentences from the same set. A model is trained on these texts (stage 1) and screens them (stage 2); a model
that is trained on the remaining texts rewrites the noise (stage 3: "trained on a cleaner corpus"). The script
prints

1. how well the false sentences are found, by each judge of `ScioSettings`: `left_out`, the paper's, with its
   matching score; and `alone`, without. These are the AUROC with score -delta_itc and with score delta_itm,
   the precision and recall of the verdict `noise`, and those of the verdicts that the matching score
   confirms; on the tiles that the model was trained on, as in SCIO, and on held-out tiles: where the first is
   worse, the model has memorised the noise. Sentences that were false before, because `measure` erred, are
   left out. There are two controls of `left_out`: the texts with the images of other tiles, where only the
   text itself can distinguish sentences; and two sentences of each text;
2. how many reconstructions are true, by judge `alone`;
3. table 8 of the paper: models trained for the same number of steps on template texts, on all texts, on the
   screened, and on the screened and reconstructed texts (by judge `alone`), compared by their mean recall in
   retrieval on held-out areas, against the rule-based texts. With labels: by the share of test chips for
   which the text of their own class fits best of all classes', without template texts. The paper's measure is
   question answering: examples/ablation.sh.

Intervals are 95 % bootstraps over the tiles of all seeds; they do not cover other scenes.

    python perf/scio_noise.py [--seeds 0 1 2] [--noise random hard] [--steps 800] [--rows 3]
    python perf/scio_noise.py --truth labels --data ../shared/data
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from label_chips import write_label_chips
from sklearn.metrics import roc_auc_score
from text_truth import Truth, judge_texts, read_truth

from fusar_klip import load
from fusar_klip.catalog import (
    read_text_metadata,
    read_texts,
    read_tiles,
    segments_by_tile,
    text_versions,
    write_texts,
)
from fusar_klip.config import load_settings
from fusar_klip.files import write_json
from fusar_klip.models import Klip, open_tile_cache
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.scio import ScioSettings, refine_texts
from fusar_klip.simulate import simulate
from fusar_klip.texts import DescribeSettings, describe
from fusar_klip.tiles import BuildSettings, build

KINDS = ("random", "hard")
# A `tiny` with late fusion, whose text side and input are smaller: the same steps in a fifth of the time.
RECIPE = (
    *("model=tiny", "architecture.image_size=64", "architecture.text_width=64"),
    *("architecture.fusion_layers=1", "texts.min_segments=1"),
    *("batch_size=64", "epochs=10000", "device=cpu", "log_every=50", "save_every=100000"),
    *("validate_every=100000", "contrast.alpha=0", "contrast.queue=0", "contrast.momentum=0"),
    *("optimizer.lr=1e-3", "optimizer.warmup_steps=100", "optimizer.decay=0.98"),
)
JUDGES: Mapping[str, Mapping[str, Any]] = {
    "left_out": {"itm_for_all": True},
    "alone": {"judge": "alone", "itm": "off", "itm_for_all": True},
}
_TRIES = 60
_MOST_A_TILE = 4
_BOOTSTRAPS = 1000
_MEASURED = ("false", "delta_itc", "delta_itm", "verdict")


@dataclass(frozen=True)
class TrueDataset:
    """A data set with ground truth for its texts.

    Attributes:
        dataset: With texts v000.
        truth: Ground truth by tile.
        template: The version of the template texts; None if there are none.
        score: Computes from the data set and a run one value per held-out tile, for table 8.
        score_name: Name of that value.
    """

    dataset: Path
    truth: Mapping[str, Truth]
    template: str | None
    score: Callable[[Path, Path], np.ndarray]
    score_name: str


def simulated(folder: Path, scenes: int, size: int) -> TrueDataset:
    """Return simulated scenes with rule-based texts (v000) and template texts (v001)."""
    dataset, truth = folder / "dataset", folder / "scenes" / "truth"
    if not (dataset / "texts" / "v001.parquet").is_file():
        simulate(folder / "scenes", scenes=scenes, size=size, seed=11)
        splits = ["split.val=0.05", "split.test=0.25"]
        build(sorted((folder / "scenes").glob("*.tif")), dataset, load_settings(BuildSettings, None, splits))
        if not text_versions(dataset):
            describe(dataset)
        options = ["provider=template", f"annotations={str(truth)!r}"]
        describe(dataset, load_settings(DescribeSettings, None, options))
    return TrueDataset(dataset, read_truth(dataset, truth), "v001", mean_recall, "mean recall")


def labelled(folder: Path, data: Path) -> TrueDataset:
    """Return the chips of SAR-ACD and MSTAR with texts from their labels."""
    truth = write_label_chips(folder / "dataset", data)
    return TrueDataset(folder / "dataset", truth, None, right_class, "right class")


def corrupt(
    dataset: Path, truth: Mapping[str, Truth], kind: str, share: float, seed: int
) -> tuple[str, pd.Series]:
    """Write a version with false sentences; return its name, and which of its rows were replaced."""
    about = {"verb": "scio_noise", "kind": kind, "share": share, "seed": seed}
    texts = read_texts(dataset)
    tiles = read_tiles(dataset, ["tile_id", "scene_type"]).set_index("tile_id")
    rng = np.random.default_rng(seed)
    keys = texts["task"] + " " + texts["field"]
    if kind == "hard":
        keys += " " + texts["tile_id"].map(tiles["scene_type"]).fillna("none")
    donors = {key: np.flatnonzero(keys == key) for key in keys.unique()}
    tasks, fields, sentences, ids = (texts[name].tolist() for name in ("task", "field", "text", "tile_id"))
    wanted = round(share * len(texts))
    new, done, of_tile = list(sentences), np.zeros(len(texts), bool), dict.fromkeys(ids, 0)
    for row in rng.permutation(len(texts)):
        tile_id = ids[row]
        if done.sum() == wanted:
            break
        if of_tile[tile_id] == _MOST_A_TILE or tile_id not in truth:
            continue
        for donor in rng.choice(donors[keys[row]], _TRIES):
            if truth[tile_id].contradicts(fields[row], tasks[row], sentences[donor]):
                new[row], done[row] = sentences[donor], True
                of_tile[tile_id] += 1
                break
    return version_of(dataset, texts.assign(text=new), "v000", about), pd.Series(done, index=texts.index)


def version_of(dataset: Path, texts: pd.DataFrame, parent: str, about: Mapping[str, Any]) -> str:
    """Return the version that `about` names; it is written where it is not there yet."""
    for version in text_versions(dataset):
        if read_text_metadata(dataset, version)["maker"] == about:
            return version
    version = f"v{len(text_versions(dataset)):03d}"
    write_texts(dataset, version, texts, parent=parent, maker=about)
    return version


def with_another_image(dataset: Path, texts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return each tile's texts with the tile_id of another tile of its split, in the order of a version."""
    ids = read_tiles(dataset, ["tile_id", "split"]).merge(texts[["tile_id"]].drop_duplicates())
    shuffled = ids.sample(frac=1, random_state=seed).groupby("split")["tile_id"]
    other = {one: next_one for _, of in shuffled for one, next_one in zip(of, np.roll(of, 1), strict=True)}
    return texts.assign(tile_id=texts["tile_id"].map(other)).sort_values("tile_id", kind="stable")


def two_sentences(dataset: Path, texts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return two random sentences of each tile."""
    return texts.groupby("tile_id").sample(2, random_state=seed).sort_index()


@dataclass(frozen=True)
class Experiment:
    """One kind of noise and one seed.

    Attributes:
        data: Data set and ground truth.
        kind: Kind of the noise.
        seed: Of the noise and the training runs.
        folder: Folder of the runs.
        steps: Number of training steps of each run.
        recipe: Further settings of pretraining.
    """

    data: TrueDataset
    kind: str
    seed: int
    folder: Path
    steps: int
    recipe: Sequence[str]

    def trained(self, name: str, version: str) -> Path:
        """Return the run of a `tiny` that is trained on a text version; an existing run is resumed."""
        run = self.folder / f"{self.kind}_{self.seed}_{name}"
        own = [f"max_steps={self.steps}", f"seed={self.seed}", f"texts.version={version}"]
        settings = load_settings(PretrainSettings, None, [*RECIPE, *self.recipe, *own])
        pretrain(self.data.dataset, run, settings, resume=run.exists())
        return run


def refine(dataset: Path, run: Path, version: str, **options: Any) -> str:
    """Return the version with the decisions of the model of `run`."""
    klip = load(run)
    return refine_texts(
        dataset,
        version,
        klip.network,
        klip.tokenizer,
        klip.preprocess,
        ScioSettings(**options),
        maker={"verb": "scio_noise", "run": run.name},
    ).version


def judged_sentences(dataset: Path, version: str, false: pd.Series, known: pd.Series) -> pd.DataFrame:
    """Return the judged sentences whose truth is known, with their measurements."""
    rows = read_texts(dataset, version, in_use=False)
    split = read_tiles(dataset, ["tile_id", "split"]).set_index("tile_id")["split"]
    rows = rows.assign(false=false, trained_on=rows["tile_id"].map(split) == "train")
    rows = rows[known & rows["delta_itc"].notna()]
    return rows[[*("tile_id", "field", "task", "trained_on"), *_MEASURED]]


def measures(rows: pd.DataFrame) -> dict[str, float]:
    """Return AUROC, precision and recall of the verdicts."""
    false, noise = rows["false"].to_numpy(bool), (rows["verdict"] == "noise").to_numpy()
    confirmed = noise & (rows["delta_itm"] > 0).to_numpy()
    return {
        "auroc_itc": float(roc_auc_score(false, -rows["delta_itc"])),
        "auroc_itm": float(roc_auc_score(false, rows["delta_itm"])),
        "precision": float(false[noise].sum() / max(noise.sum(), 1)),
        "recall": float(noise[false].mean()),
        "precision_confirmed": float(false[confirmed].sum() / max(confirmed.sum(), 1)),
        "recall_confirmed": float(confirmed[false].mean()),
    }


def with_intervals(rows: pd.DataFrame, seed: int = 0) -> dict[str, list[float]]:
    """Return each measure with its 95 % interval over tiles; seeds are pooled, tiles of a seed are units."""
    units = [group for _, group in rows.groupby(["seed", "tile_id"])]
    rng = np.random.default_rng(seed)
    drawn = []
    arrays = rows[list(_MEASURED)]
    places = [group.index.to_numpy() for group in units]
    for _ in range(_BOOTSTRAPS // 5):
        taken = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        drawn.append(measures(arrays.loc[taken]))
    whole = measures(rows)
    ends = pd.DataFrame(drawn).quantile([0.025, 0.975])
    return {name: [value, *ends[name].tolist()] for name, value in whole.items()}


def reconstructions(dataset: Path, version: str, truth: Mapping[str, Truth]) -> dict[str, int]:
    """Count the reconstructed sentences that are false, not false and unknown by the truth."""
    rows = read_texts(dataset, version)
    false = judge_texts(rows[rows["verdict"] == "reconstructed"], truth)
    return {
        "written": len(false),
        "false": sum(x is True for x in false),
        "not false": sum(x is False for x in false),
        "unknown": sum(x is None for x in false),
    }


CONTROLS: Mapping[str, Callable[[Path, pd.DataFrame, int], pd.DataFrame]] = {
    "left_out, another tile's image": with_another_image,
    "left_out, texts of two sentences": two_sentences,
}


def held_out(dataset: Path, klip: Klip) -> tuple[np.ndarray, list[list[str]]]:
    """Return the image features (N, E) of the N held-out tiles, and their own texts, v000."""
    tiles = read_tiles(dataset, ["tile_id", "split", "kept"])
    held = tiles.loc[tiles["kept"] & (tiles["split"] == "test"), "tile_id"]
    cache = open_tile_cache(dataset, klip.preprocess.size)
    segments_of = segments_by_tile(read_texts(dataset))
    return klip.embed_image([cache.images[cache.rows[t]] for t in held]), [segments_of[t] for t in held]


def right_class(dataset: Path, run: Path) -> np.ndarray:
    """Return for each held-out chip whether its own text is the nearest of all classes', N values."""
    klip = load(run)
    image, texts = held_out(dataset, klip)
    classes = [list(text) for text in sorted({tuple(text) for text in texts})]
    nearest = (image @ klip.embed_text(classes).T).argmax(1)
    return np.array([classes[best] == own for best, own in zip(nearest, texts, strict=True)], float)


def mean_recall(dataset: Path, run: Path) -> np.ndarray:
    """Return for each held-out tile the mean recall (R@1, 5, 10, both directions) of the model, N values."""
    klip = load(run)
    image, texts = held_out(dataset, klip)
    similarity = image @ klip.embed_text(texts).T
    hits = []
    for one_way in (similarity, similarity.T):
        rank = (one_way >= np.diagonal(one_way)[:, None]).sum(1)
        hits += [rank <= k for k in (1, 5, 10)]
    recall: np.ndarray = np.mean(hits, axis=0)
    return recall


def find_noise(experiment: Experiment, share: float) -> tuple[pd.DataFrame, Path, str]:
    """Corrupt, train and screen; return sentences by judge, the model, and the version that `alone` wrote."""
    dataset, truth, seed = experiment.data.dataset, experiment.data.truth, experiment.seed
    noisy, false = corrupt(dataset, truth, experiment.kind, share, seed)
    before = judge_texts(read_texts(dataset), truth)
    known = false | pd.Series([judged is not True for judged in before])
    run = experiment.trained("all", noisy)
    judged = {judge: refine(dataset, run, noisy, reconstruct=False, **how) for judge, how in JUDGES.items()}
    rows = [judged_sentences(dataset, judged[judge], false, known).assign(judge=judge) for judge in JUDGES]
    for control, change in CONTROLS.items():
        texts = change(dataset, read_texts(dataset, noisy), seed)
        changed = version_of(dataset, texts, noisy, {"verb": "scio_noise", "control": control, "of": noisy})
        version = refine(dataset, run, changed, reconstruct=False, **JUDGES["left_out"])
        flags = (column[texts.index].reset_index(drop=True) for column in (false, known))
        rows.append(judged_sentences(dataset, version, *flags).assign(judge=control))
    return pd.concat(rows).assign(seed=seed), run, judged["alone"]


def rebuild(
    experiment: Experiment, all_run: Path, screened: str, margin: float
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Rewrite the noise; return how many of the new sentences are true, and table 8's rows."""
    material = experiment.data
    writer = experiment.trained("screened", screened)
    how = {**JUDGES["alone"], "reconstruction_margin": margin}
    rebuilt = refine(material.dataset, writer, screened, screen=False, **how)
    runs = {"template texts": experiment.trained("template", material.template)} if material.template else {}
    runs |= {
        "all texts": all_run,
        "screened": writer,
        "screened and reconstructed": experiment.trained(f"reconstructed_{margin:g}", rebuilt),
    }
    table8 = {name: material.score(material.dataset, run) for name, run in runs.items()}
    return reconstructions(material.dataset, rebuilt, material.truth), table8


def report(
    kind: str,
    rows: pd.DataFrame,
    written: Mapping[str, int],
    table8: Mapping[str, Sequence[np.ndarray]],
    score_name: str,
) -> dict[str, Any]:
    """Print the results for a kind of noise, and return them."""
    finding = {
        (judge, "trained on" if trained_on else "held out"): with_intervals(part.reset_index(drop=True))
        for (judge, trained_on), part in rows.groupby(["judge", "trained_on"])
    }
    one = rows[rows["judge"] == "alone"]
    print(f"\n## {kind}: {int(one['false'].sum())} false among {len(one)} sentences\n")
    print(f"| Judge | Tiles | {' | '.join(next(iter(finding.values())))} |")
    print("|---" * (2 + len(next(iter(finding.values())))) + "|")
    for (judge, part), measured in finding.items():
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*values) for values in measured.values()]
        print(f"| {judge} | {part} | {' | '.join(cells)} |")
    by_field = []
    rows = rows[rows["judge"].isin(list(JUDGES))]
    for name, group in rows.groupby(rows["task"] + " " + rows["field"]):
        if 5 <= group["false"].sum() / len(JUDGES) < len(group) / len(JUDGES):
            areas = {
                str(judge): float(roc_auc_score(part["false"], -part["delta_itc"]))
                for judge, part in group.groupby("judge")
            }
            by_field.append({"field": name, "false": int(group["false"].sum() / len(JUDGES)), **areas})
    print("\n| Task and field | false | AUROC (ITC), left_out | alone |\n|---|---|---|---|")
    for line in by_field:
        print("| {field} | {false} | {left_out:.2f} | {alone:.2f} |".format(**line))
    if written:
        print(f"\nReconstructions: {dict(written)}")
    rng = np.random.default_rng(0)
    recalls = {}
    if table8:
        print(f"\n| Trained on | {score_name} | 95 % interval |\n|---|---|---|")
    for row, values in table8.items():
        pooled = np.concatenate(list(values))
        drawn = [rng.choice(pooled, len(pooled)).mean() for _ in range(_BOOTSTRAPS)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        recalls[row] = [float(pooled.mean()), float(low), float(high)]
        print(f"| {row} | {pooled.mean():.3f} | {low:.3f} to {high:.3f} |")
    return {
        "finding": {f"{judge}, {part}": measured for (judge, part), measured in finding.items()},
        "by_field": by_field,
        "reconstructions": dict(written),
        "table8": recalls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--share", type=float, default=0.2, help="share of the sentences that are made false")
    parser.add_argument("--steps", type=int, default=800, help="steps of every training")
    parser.add_argument(
        "--rows", type=int, default=3, help="number of seeds whose noise is reconstructed, for 2 and 3"
    )
    parser.add_argument("--margin", type=float, default=0.0, help="reconstruction_margin")
    parser.add_argument("--truth", choices=["simulated", "labels"], default="simulated")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="for --truth labels: the data folder"
    )
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--size", type=int, default=2048, help="side of a scene in pixels")
    parser.add_argument("--set", dest="recipe", nargs="*", default=[], help="further settings of pretraining")
    parser.add_argument("--work", type=Path, help="folder that keeps data and runs; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("perf/scio_noise.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        material = (
            labelled(folder, options.data)
            if options.truth == "labels"
            else simulated(folder, options.scenes, options.size)
        )
        results = {}
        for kind in options.noise:
            found_rows, written, table8 = [], Counter[str](), defaultdict[str, list[np.ndarray]](list)
            for place, seed in enumerate(options.seeds):
                runs = folder / f"runs_{options.steps}"
                experiment = Experiment(material, kind, seed, runs, options.steps, options.recipe)
                rows, run, screened = find_noise(experiment, options.share)
                found_rows.append(rows)
                if place < options.rows:
                    counts, scores = rebuild(experiment, run, screened, options.margin)
                    written.update(counts)
                    for name, values in scores.items():
                        table8[name].append(values)
            results[kind] = report(kind, pd.concat(found_rows), written, table8, material.score_name)
        about = {key: value for key, value in vars(options).items() if key not in ("work", "out", "data")}
        write_json(options.out, {"settings": about, "results": results})


if __name__ == "__main__":
    main()
