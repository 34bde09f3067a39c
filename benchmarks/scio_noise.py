"""Does SCIO work? Finding sentences that are false by the truth of simulated scenes, and what it brings.

Simulates, builds, measures. Then, for each kind of noise and each seed: a fifth of all tiles' sentences is
replaced by other tiles' sentences of the same field and task that are false by the truth
(`text_truth`): from any tile (`random`), or from one of the same scene type (`hard`). A model is trained on
these texts (stage 1), and screens and reconstructs them. Printed are

1. how well the false sentences are found: AUROC with score -delta_itc, and with score delta_itm, precision
   and recall of the verdict `noise`; on the tiles that the model was trained on, as in SCIO, and on held-out
   ones: where the first is worse, the model has learned the noise by heart. Sentences that were false before,
   because `measure` erred, are left out;
2. what the truth says of the reconstructions;
3. table 8 of the paper: models trained for as many steps on template texts, on all texts, on the screened,
   and on the screened and reconstructed ones, by their recall in retrieval on grounds that were not trained
   on, against the measured texts. Question answering, the paper's measure, is not in this version.

Intervals are 95 % bootstraps over the tiles of all seeds; they know nothing of other scenes.

    python benchmarks/scio_noise.py [--seeds 0 1 2] [--noise random hard] [--steps 600] [--rows 3]
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from text_truth import TileTruth, is_false, judge, read_truth

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
from fusar_klip.models import open_tile_cache
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.pretrain.scio import ScioSettings, refine_texts
from fusar_klip.simulate import simulate
from fusar_klip.texts import DescribeSettings, describe
from fusar_klip.tiles import BuildSettings, build

KINDS = ("random", "hard")
RECIPE = (
    *("model=tiny", "batch_size=32", "epochs=10000", "device=cpu", "log_every=50", "save_every=100000"),
    *("validate_every=100000", "contrast.alpha=0", "contrast.queue=512", "contrast.momentum=0.95"),
    *("optimizer.lr=1e-3", "optimizer.warmup_steps=30", "optimizer.decay=0.98"),
)
_TRIES = 60
_MOST_A_TILE = 4
_BOOTSTRAPS = 1000
_MEASURED = ("false", "delta_itc", "delta_itm", "verdict")


def prepare(folder: Path, scenes: int, size: int) -> tuple[Path, Path]:
    """Return a data set with measured texts (v000) and template texts (v001), and its truth."""
    dataset, truth = folder / "dataset", folder / "scenes" / "truth"
    if not (dataset / "texts" / "v001.parquet").is_file():
        simulate(folder / "scenes", scenes=scenes, size=size, seed=11)
        splits = ["split.val=0.05", "split.test=0.25"]
        build(sorted((folder / "scenes").glob("*.tif")), dataset, load_settings(BuildSettings, None, splits))
        if not text_versions(dataset):
            describe(dataset)
        options = ["provider=template", f"annotations={str(truth)!r}"]
        describe(dataset, load_settings(DescribeSettings, None, options))
    return dataset, truth


def corrupt(
    dataset: Path, truth: Mapping[str, TileTruth], kind: str, share: float, seed: int
) -> tuple[str, pd.Series]:
    """Write a version with false sentences; return its name, and which of its rows are false by our hand."""
    about = {"verb": "scio_noise", "kind": kind, "share": share, "seed": seed}
    texts = read_texts(dataset)
    tiles = read_tiles(dataset, ["tile_id", "scene_type"]).set_index("tile_id")
    rng = np.random.default_rng(seed)
    keys = texts["task"] + " " + texts["field"]
    if kind == "hard":
        keys += " " + texts["tile_id"].map(tiles["scene_type"]).fillna("none")
    donors = {key: np.flatnonzero(keys == key) for key in keys.unique()}
    tasks, fields, said, ids = (texts[name].tolist() for name in ("task", "field", "text", "tile_id"))
    wanted = round(share * len(texts))
    new, done, of_tile = list(said), np.zeros(len(texts), bool), dict.fromkeys(ids, 0)
    for row in rng.permutation(len(texts)):
        tile_id = ids[row]
        if done.sum() == wanted:
            break
        if of_tile[tile_id] == _MOST_A_TILE or tile_id not in truth:
            continue
        for donor in rng.choice(donors[keys[row]], _TRIES):
            if is_false(fields[row], tasks[row], said[donor], truth[tile_id]):
                new[row], done[row] = said[donor], True
                of_tile[tile_id] += 1
                break
    version = next(
        (v for v in text_versions(dataset) if read_text_metadata(dataset, v)["maker"] == about), None
    )
    if version is None:
        version = f"v{len(text_versions(dataset)):03d}"
        write_texts(dataset, version, texts.assign(text=new), parent="v000", maker=about)
    return version, pd.Series(done, index=texts.index)


def train(dataset: Path, run: Path, version: str, steps: int, seed: int, recipe: Sequence[str]) -> Path:
    """Train `tiny` on a text version, or go on with it."""
    options = [*RECIPE, *recipe, f"max_steps={steps}", f"seed={seed}", f"texts.version={version}"]
    pretrain(dataset, run, load_settings(PretrainSettings, None, options), resume=run.exists())
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


def found(dataset: Path, version: str, false: pd.Series, before: Sequence[bool | None]) -> pd.DataFrame:
    """Return the judged sentences: tile_id, whether false, the two deltas, and the verdict."""
    rows = read_texts(dataset, version, in_use=False)
    known = rows["delta_itc"].notna() & (false | ~pd.Series([x is True for x in before]))
    split = read_tiles(dataset, ["tile_id", "split"]).set_index("tile_id")["split"]
    rows = rows.assign(false=false, trained_on=rows["tile_id"].map(split) == "train")[known]
    return rows[[*("tile_id", "field", "task", "trained_on"), *_MEASURED]]


def measures(rows: pd.DataFrame) -> dict[str, float]:
    """Return AUROCs, precision and recall."""
    false, noise = rows["false"].to_numpy(bool), (rows["verdict"] == "noise").to_numpy()
    right = (false & noise).sum()
    return {
        "auroc_itc": float(roc_auc_score(false, -rows["delta_itc"])),
        "auroc_itm": float(roc_auc_score(false, rows["delta_itm"])),
        "precision": float(right / max(noise.sum(), 1)),
        "recall": float(right / false.sum()),
        "called_noise": float(noise.mean()),
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


def reconstructions(dataset: Path, version: str, truth: Mapping[str, TileTruth]) -> dict[str, int]:
    """Count reconstructed sentences by what the truth says of them."""
    rows = read_texts(dataset, version)
    said = judge(rows[rows["verdict"] == "reconstructed"], dict(truth))
    return {
        "written": len(said),
        "false": sum(x is True for x in said),
        "not false": sum(x is False for x in said),
        "not to be told": sum(x is None for x in said),
    }


def retrieval(dataset: Path, run: Path) -> np.ndarray:
    """Return for each held-out tile the mean recall (R@1, 5, 10, both directions) of the model, N values."""
    klip = load(run)
    tiles = read_tiles(dataset, ["tile_id", "split", "kept"])
    held = tiles.loc[tiles["kept"] & (tiles["split"] == "test"), "tile_id"]
    cache = open_tile_cache(dataset, klip.preprocess.size)
    said = segments_by_tile(read_texts(dataset))
    image = klip.embed_image([cache.images[cache.rows[t]] for t in held])
    text = klip.embed_text([said[t] for t in held])
    similarity = image @ text.T
    hits = []
    for one_way in (similarity, similarity.T):
        rank = (one_way >= np.diagonal(one_way)[:, None]).sum(1)
        hits += [rank <= k for k in (1, 5, 10)]
    recall: np.ndarray = np.mean(hits, axis=0)
    return recall


def run_one(
    folder: Path, truth: Mapping[str, TileTruth], kind: str, seed: int, options: argparse.Namespace
) -> tuple[pd.DataFrame, dict[str, int], dict[str, np.ndarray]]:
    """Corrupt, train, screen, rebuild; and train table 8's further rows."""
    dataset, runs = folder / "dataset", folder / f"runs_{options.steps}"
    noisy, false = corrupt(dataset, truth, kind, options.share, seed)
    before = judge(read_texts(dataset), dict(truth))
    judge_run = train(dataset, runs / f"{kind}_{seed}_all", noisy, options.steps, seed, options.recipe)
    screened = refine(dataset, judge_run, noisy, reconstruct=False, itm_for_all=True)
    rebuilt = refine(dataset, judge_run, screened, screen=False)
    rows = found(dataset, screened, false, before).assign(kind=kind, seed=seed)
    table8 = {}
    if seed in options.seeds[: options.rows]:
        table8["template texts"] = retrieval(
            dataset, train(dataset, runs / f"template_{seed}", "v001", options.steps, seed, options.recipe)
        )
        table8["all texts"] = retrieval(dataset, judge_run)
        for name, version in (("screened", screened), ("screened and reconstructed", rebuilt)):
            run = train(
                dataset,
                runs / f"{kind}_{seed}_{name.split()[-1]}",
                version,
                options.steps,
                seed,
                options.recipe,
            )
            table8[name] = retrieval(dataset, run)
    return rows, reconstructions(dataset, rebuilt, truth), table8


def report(
    kind: str, rows: pd.DataFrame, written: dict[str, int], table8: Mapping[str, Sequence[np.ndarray]]
) -> dict[str, Any]:
    """Print a kind's figures, and return them."""
    result = with_intervals(rows[rows["trained_on"]].reset_index(drop=True))
    held_out = with_intervals(rows[~rows["trained_on"]].reset_index(drop=True))
    print(f"\n## {kind}: {int(rows['false'].sum())} false among {len(rows)} sentences\n")
    print("| Measure | tiles trained on | | held-out tiles | |\n|---|---|---|---|---|")
    for name, measured in result.items():
        cells = [f"{value:.3f} | {low:.3f} to {high:.3f}" for value, low, high in (measured, held_out[name])]
        print(f"| {name} | {' | '.join(cells)} |")
    by_field = []
    for name, group in rows.groupby(rows["task"] + " " + rows["field"]):
        if 5 <= group["false"].sum() < len(group):
            area = float(roc_auc_score(group["false"], -group["delta_itc"]))
            by_field.append({"field": name, "false": int(group["false"].sum()), "auroc": area})
    print("\n| Task and field | false | AUROC (ITC) |\n|---|---|---|")
    for line in by_field:
        print("| {field} | {false} | {auroc:.2f} |".format(**line))
    print(f"\nReconstructions: {written}")
    rng = np.random.default_rng(0)
    recalls = {}
    if table8:
        print("\n| Trained on | mean recall | 95 % interval |\n|---|---|---|")
    for row, values in table8.items():
        pooled = np.concatenate(list(values))
        drawn = [rng.choice(pooled, len(pooled)).mean() for _ in range(_BOOTSTRAPS)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        recalls[row] = [float(pooled.mean()), float(low), float(high)]
        print(f"| {row} | {pooled.mean():.3f} | {low:.3f} to {high:.3f} |")
    return {
        "finding": result,
        "finding_held_out": held_out,
        "by_field": by_field,
        "reconstructions": written,
        "table8": recalls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--share", type=float, default=0.2, help="share of the sentences that is made false")
    parser.add_argument("--steps", type=int, default=600, help="steps of every training")
    parser.add_argument("--rows", type=int, default=3, help="seeds for which table 8's rows are trained")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--size", type=int, default=2048, help="side of a scene in pixels")
    parser.add_argument("--set", dest="recipe", nargs="*", default=[], help="further settings of pretraining")
    parser.add_argument("--work", type=Path, help="folder that keeps data and runs; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scio_noise.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        dataset, truth_folder = prepare(folder, options.scenes, options.size)
        truth = read_truth(dataset, truth_folder)
        results = {}
        for kind in options.noise:
            done = [run_one(folder, truth, kind, seed, options) for seed in options.seeds]
            written: dict[str, int] = {}
            table8: dict[str, list[np.ndarray]] = {}
            for _, counts, recalls in done:
                written = {key: written.get(key, 0) + n for key, n in counts.items()}
                for name, values in recalls.items():
                    table8.setdefault(name, []).append(values)
            results[kind] = report(kind, pd.concat([rows for rows, _, _ in done]), written, table8)
        about = {key: value for key, value in vars(options).items() if key not in ("work", "out")}
        write_json(options.out, {"settings": about, "results": results})


if __name__ == "__main__":
    main()
