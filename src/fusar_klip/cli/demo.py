"""`fusar-klip demo`: every stage once, on simulated scenes, in the order in which a user would run them.

All outputs are in one folder. Running the command again continues an interrupted demo; a finished one ends at
once.
"""

from dataclasses import dataclass
from pathlib import Path

from fusar_klip.benchmark import benchmark
from fusar_klip.catalog import text_versions
from fusar_klip.config import load_settings
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.search import build_index
from fusar_klip.search import search as search_index
from fusar_klip.simulate import simulate
from fusar_klip.texts import describe
from fusar_klip.tiles import BuildSettings, build

# Many scenes rather than large ones, so that both the training areas and the held-out areas are varied.
SCENES = 20
SIZE_PX = 3072
QUERY = "ships at sea"
# The settings of configs/pretrain_tiny.toml, which an installed package does not have. A test compares them.
PRETRAIN = (
    "model=tiny",
    "batch_size=32",
    "epochs=200",
    "max_steps=550",
    "log_every=10",
    "validate_every=100",
    "save_every=100",
    "texts.min_segments=8",
    "contrast.alpha=0",
    "contrast.queue=128",
    "contrast.momentum=0.95",
    "optimizer.lr=1e-3",
    "optimizer.warmup_steps=30",
    "optimizer.decay=0.95",
)
SUITE = """\
name = "demo"

[[row]]
task = "retrieval"
dataset = "simulated"
path = "{dataset}"
split = "test"
shortlist = 0 # no re-ranking by the matching head: it takes minutes on two cores
"""


@dataclass(frozen=True)
class DemoSummary:
    """Paths of the outputs of the demo."""

    scenes: str
    dataset: str
    texts: str
    checkpoint: str
    index: str
    results: str
    report: str


def run_demo(out: Path) -> DemoSummary:
    """Simulate, build, describe, pretrain, index, search and benchmark under the folder `out`."""
    scenes, dataset, run, index, results = (
        out / name for name in ("scenes", "dataset", "run", "index", "results")
    )
    simulate(scenes, scenes=SCENES, size=SIZE_PX, seed=1)
    build(
        sorted(scenes.glob("*.tif")),
        dataset,
        load_settings(BuildSettings, None, ["split.val=0.05", "split.test=0.3"]),
        workers=2,
    )
    if not text_versions(dataset):
        describe(dataset)
    trained = pretrain(dataset, run, load_settings(PretrainSettings, None, PRETRAIN), resume=run.exists())
    build_index(dataset, run, index)
    search_index(index, QUERY, top=5)
    suite = out / "suite.toml"
    suite.write_text(SUITE.format(dataset=dataset.resolve().as_posix()))
    compared = benchmark([str(run), f"untrained:{run}"], results, suite=suite)
    return DemoSummary(
        scenes=str(scenes),
        dataset=str(dataset),
        texts=str(dataset / "texts" / "v000.parquet"),
        checkpoint=trained.run,
        index=str(index),
        results=compared.results,
        report=compared.report_html,
    )
