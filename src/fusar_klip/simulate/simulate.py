"""Make a folder of simulated SAR scenes with ground truth, the stage behind `fusar-klip simulate`."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import sha256, write_json
from fusar_klip.geo.platforms import PLATFORMS, Platform
from fusar_klip.progress import progress_bar
from fusar_klip.simulate.scene import SimulatedScene
from fusar_klip.simulate.themes import themes_for_extent
from fusar_klip.simulate.truth import coco, geojson

MIN_SIZE = 64
_ORDER = ("Gaofen-3", "Hongtu-1", "Sentinel-1", "Qilu-1")
_MANIFEST = "simulation.json"
# Scenes made at the same time, in threads: each holds up to 0.65 GiB, and two fit the promised 2 GiB.
_AT_ONCE = 2


@dataclass(frozen=True)
class SceneSummary:
    """One scene: its files relative to the folder, and what it shows."""

    image: str
    coco: str
    geojson: str
    land_cover: str
    platform: str
    theme: str
    place: str
    country: str | None
    lon: float
    lat: float
    epsg: int
    ships: int
    aircraft: int
    sha256: str


@dataclass(frozen=True)
class SimulationSummary:
    """What `simulate` made; the manifest `simulation.json` holds the same."""

    out: str
    seed: int
    size: int
    scenes: list[SceneSummary]


def simulate(
    out: Path, *, scenes: int = 3, size: int = 2048, seed: int = 0, platforms: Sequence[str] = ()
) -> SimulationSummary:
    """Simulate SAR scenes into `out`: images beside each other, their truth in `out`/truth.

    Args:
        out: Folder to create; the same simulation in it is left unchanged, or resumed if it was interrupted.
        scenes: How many.
        size: Side of each in pixels, at least `MIN_SIZE`.
        seed: The same seed, size, number and platforms give the same bytes.
        platforms: Names out of `tiles.platforms.PLATFORMS`, taken in turn; all four when empty.

    Raises:
        SettingsError: A platform is unknown, or a number is out of range.
        DatasetError: `out` holds something else.
    """
    chosen = _platforms(platforms)
    if scenes < 1:
        raise SettingsError(f"--scenes {scenes}: at least one scene must be made")
    if size < MIN_SIZE:
        raise SettingsError(f"--size {size}: a scene needs at least {MIN_SIZE} pixels a side")
    if seed < 0:
        raise SettingsError(f"--seed {seed}: give a seed of 0 or more")
    plan = [_scene(seed, number, size, chosen) for number in range(scenes)]
    _check_folder(out, plan, {"seed": seed, "size": size})
    if finished := _finished(out, plan):
        return SimulationSummary(str(out), seed, size, finished)

    with progress_bar() as bar, ThreadPoolExecutor(_AT_ONCE) as pool:
        task = bar.add_task("Simulating", total=sum(sum(1 for _ in scene.blocks()) for scene in plan))
        made = list(pool.map(lambda scene: _make(scene, out, lambda: bar.advance(task)), plan))
    manifest: dict[str, Any] = {"seed": seed, "size": size, "scenes": [asdict(scene) for scene in made]}
    write_json(out / _MANIFEST, manifest)
    return SimulationSummary(str(out), seed, size, made)


def _scene(seed: int, number: int, size: int, platforms: Sequence[Platform]) -> SimulatedScene:
    platform = platforms[number % len(platforms)]
    themes = themes_for_extent(size * platform.gsd_m)
    # Each round over the platforms shifts the themes by one, so that every pair occurs.
    lap, place = divmod(number, len(platforms))
    theme = themes[(lap + place) % len(themes)]
    return SimulatedScene(seed, number, size, platform, theme)


def _make(scene: SimulatedScene, out: Path, on_block: Callable[[], None]) -> SceneSummary:
    files = _files(scene)
    scene.write(out / files["image"], out / files["land_cover"], on_block)
    boxes = coco(scene)
    write_json(out / files["geojson"], geojson(scene))
    write_json(out / files["coco"], boxes)
    categories = [annotation["category_id"] for annotation in boxes["annotations"]]
    return SceneSummary(
        **files,
        platform=scene.platform.name,
        theme=scene.theme,
        place=scene.place.name,
        country=scene.place.country,
        lon=scene.place.lon,
        lat=scene.place.lat,
        epsg=scene.epsg,
        ships=categories.count(1),
        aircraft=categories.count(2),
        sha256=sha256(out / files["image"]),
    )


def _files(scene: SimulatedScene) -> dict[str, str]:
    # Truth lies in its own folder, so that OUT/*.tif are the scenes and nothing else.
    return {
        "image": f"{scene.stem}.tif",
        "coco": f"truth/{scene.stem}.json",
        "geojson": f"truth/{scene.stem}.geojson",
        "land_cover": f"truth/{scene.stem}_landcover.tif",
    }


def _platforms(names: Sequence[str]) -> list[Platform]:
    known = {name.lower(): platform for name, platform in PLATFORMS.items()}
    if unknown := [name for name in names if name.lower() not in known]:
        raise SettingsError(f'no platform "{unknown[0]}"; known are {", ".join(PLATFORMS)}')
    return [known[name.lower()] for name in (names or _ORDER)]


def _finished(out: Path, plan: Sequence[SimulatedScene]) -> list[SceneSummary]:
    """Return what the manifest says of the scenes of `plan`, if they are all there whole; else nothing."""
    if not (out / _MANIFEST).is_file():
        return []
    there = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
    scenes = [SceneSummary(**scene) for scene in there["scenes"]]
    names = [file for scene in plan for file in _files(scene).values()]
    whole = (
        [scene.image for scene in scenes] == [_files(scene)["image"] for scene in plan]
        and all((out / name).is_file() for name in names)
        and all(sha256(out / scene.image) == scene.sha256 for scene in scenes)
    )
    return scenes if whole else []


def _check_folder(out: Path, plan: Sequence[SimulatedScene], options: Mapping[str, int]) -> None:
    """Refuse a folder with other files than those of this simulation; an interrupted simulation resumes."""
    if (out / _MANIFEST).is_file():
        try:
            there = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
            same = all(there[key] == value for key, value in options.items())
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise DatasetError(f"{out} holds a simulation of other options: give a new folder")
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file: give a folder for the simulated scenes")
    ours = {_MANIFEST, *(file for scene in plan for file in _files(scene).values())}
    for path in sorted(out.rglob("*")) if out.exists() else []:
        if path.is_file() and not path.name.endswith(".partial"):
            name = path.relative_to(out).as_posix()
            if name not in ours:
                raise DatasetError(f"{out} holds {name}, no part of this simulation: give a new folder")
