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
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Run every stage once, on simulated scenes: a few minutes on two cores."""
    from fusar_klip.cli.demo import run_demo

    summary = run_demo(out)
    report(summary, as_json, "\n".join(f"{what:<12} {path}" for what, path in asdict(summary).items()))


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the scenes and their truth.")],
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 3,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    platform: Annotated[
        list[str] | None, typer.Option(help="Platform's name; may be repeated. Default: all in turn.")
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
    out: Annotated[Path, typer.Option(help="The data set's folder; scenes are added to one that is there.")],
    config: ConfigOption = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Tiles worked on at the same time.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler; its workers share the file system.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Facts of the scenes: CSV, or a STAC item collection.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell tiles, bytes and time ahead; write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut scenes into geo-referenced tiles of fixed ground extent."""
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
        f"of scratch ({ahead.free_bytes / 1e6:.0f} MB are free), {ahead.seconds:.0f} s "
        f"on {ahead.workers} workers"
    )
    return "\n".join([*lines, total])


def _fail_for(failed: list[dict[str, str]], given: int, what: str) -> None:
    """Exit with 2 if scenes failed, naming them all. A folder that was given can hold several scenes."""
    if failed:
        reasons = "; ".join(failure["reason"] for failure in failed)
        fail(f"{len(failed)} of {max(given, len(failed))} scenes {what}: {reasons}")


def export(
    dataset: DatasetArgument,
    to: Annotated[str, typer.Option(help="stac, webdataset or hf (Hugging Face Parquet).")],
    out: Annotated[Path, typer.Option(help="The export's folder; an earlier export there is replaced.")],
    every_tile: Annotated[
        bool, typer.Option("--every-tile", help="Also the tiles that are not kept. STAC always has them.")
    ] = False,
    texts: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The texts that go along. Default: the newest.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a data set as STAC, WebDataset or Hugging Face Parquet."""
    from fusar_klip.export import export as run

    summary = run(dataset, to=to, out=out, every_tile=every_tile, texts=texts)
    left_out = f", {summary.left_out} that are not kept left out" if summary.left_out else ""
    report(summary, as_json, f"{summary.tiles} tiles in {summary.files} files in {out}{left_out}")
