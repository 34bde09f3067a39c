"""The verbs that make data sets: demo, simulate, build, export."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusar_klip.cli.options import ConfigOption, DatasetArgument, JsonOption, SetOption
from fusar_klip.cli.output import fail, report

if TYPE_CHECKING:
    from fusar_klip.tiles import BuildEstimate


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all outputs.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Run every stage once on simulated scenes (a few minutes on two cores)."""
    from fusar_klip.cli.demo import run_demo

    summary = run_demo(out)
    report(summary, as_json, "\n".join(f"{what:<12} {path}" for what, path in asdict(summary).items()))


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the scenes and their ground truth.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 3,
    size: Annotated[int, typer.Option(min=64, help="Width and height of a scene in pixels.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Random seed. The same seed gives the same bytes.")] = 0,
    platform: Annotated[
        list[str] | None, typer.Option(help="Name of a platform; may be repeated. Default: all, in turn.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate SAR scenes with ground truth."""
    from fusar_klip.simulate import simulate as run

    summary = run(out, scenes=scenes, size=size, seed=seed, platforms=platform or ())
    report(summary, as_json, f"{scenes} scenes in {out}")


def build(
    scenes: Annotated[
        list[Path], typer.Argument(metavar="SCENE...", help="Raster files, product folders or archives.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the data set. Scenes are added to an existing one.")],
    config: ConfigOption = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of tiles processed in parallel.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler. Its workers must share the file system.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Scene metadata: a CSV file, or a STAC item collection.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate tiles, bytes and time; write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut SAR scenes into georeferenced tiles of fixed ground extent."""
    from fusar_klip import tiles
    from fusar_klip.config import load_settings

    given = load_settings(tiles.BuildSettings, config, settings or ())
    if dry_run:
        ahead = tiles.estimate(scenes, out, given, workers=workers, manifest=manifest)
        report(ahead, as_json, _estimate_lines(ahead))
        _fail_for(ahead.failed, len(scenes), "cannot be built")
        return
    summary = tiles.build(scenes, out, given, workers=workers, scheduler=scheduler, manifest=manifest)
    scales = ", ".join(f"{count} {scale}" for scale, count in summary.by_scale.items())
    text = f"{summary.tiles} tiles ({scales}; {summary.kept} kept) of {summary.scenes} scenes in {out}"
    report(summary, as_json, text)
    _fail_for(summary.failed, len(scenes), "failed, the others are kept")


def _estimate_lines(ahead: "BuildEstimate") -> str:
    lines = [
        f"{scene.scene_id}: {sum(scene.tiles.values())} of at most {sum(scene.tiles_at_most.values())} "
        f"tiles, {scene.tile_bytes / 1e6:.0f} MB, {scene.seconds:.0f} s"
        for scene in ahead.scenes
    ]
    total = (
        f"about {ahead.tiles} tiles, {ahead.tile_bytes / 1e6:.0f} MB and {ahead.scratch_bytes / 1e6:.0f} MB "
        f"of scratch space ({ahead.free_bytes / 1e6:.0f} MB are free), {ahead.seconds:.0f} s "
        f"on {ahead.workers} workers"
    )
    return "\n".join([*lines, total])


def _fail_for(failed: list[dict[str, str]], given: int, what: str) -> None:
    """Exit with 2 if scenes failed, and list them all. One given folder can hold several scenes."""
    if failed:
        reasons = "; ".join(failure["reason"] for failure in failed)
        fail(f"{len(failed)} of {max(given, len(failed))} scenes {what}: {reasons}")


def export(
    dataset: DatasetArgument,
    to: Annotated[str, typer.Option(help="stac, webdataset or hf (Hugging Face Parquet).")],
    out: Annotated[Path, typer.Option(help="Folder of the export. An earlier export there is replaced.")],
    every_tile: Annotated[
        bool,
        typer.Option(
            "--every-tile", help="Include tiles that screening did not keep. STAC always includes them."
        ),
    ] = False,
    texts: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Version of the texts to export. Default: the newest."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a data set as STAC, WebDataset or Hugging Face Parquet."""
    from fusar_klip.export import export as run

    summary = run(dataset, to=to, out=out, every_tile=every_tile, texts=texts)
    left_out = f", {summary.left_out} not kept and left out" if summary.left_out else ""
    report(summary, as_json, f"{summary.tiles} tiles in {summary.files} files in {out}{left_out}")
