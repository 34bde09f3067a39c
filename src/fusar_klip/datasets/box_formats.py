"""Readers of the three common box formats: COCO, VOC (also rotated boxes) and YOLO.

Coordinates are pixels from the image's top left corner, as the files give them: no half pixel and no 1 is
added or removed. An image's header is read for its size where the labels do not give it.
"""

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusar_klip.datasets.labelled_data import (
    IMAGE_SUFFIXES,
    Box,
    DetectionData,
    ImageWithBoxes,
    Part,
    layout_error,
    list_images,
)
from fusar_klip.errors import DatasetError
from fusar_klip.image_io import image_size

IMAGE_FOLDERS = ("images", "JPEGImages", "Images", ".")
PART_NAMES: Mapping[str, Part] = {
    "train": "train",
    "train2017": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "val2017": "val",
    "validation": "val",
    "test": "test",
    "test2017": "test",
}

_LARGEST_SHARE = 2.0
"""Largest coordinate as a share of the image's size: a box may exceed its image, but not by a whole one."""


def read_coco(path: Path, name: str) -> DetectionData:
    """Read COCO files: *.json in PATH, PATH/annotations or PATH/Annotations, and the images that they name.

    A file named after a part (train, val, test, with or without 2017) gives its images that part; without
    such a file, all files are read and the images have no part. Beside files of the parts, other files such
    as test_inshore.json, which repeat a part's images, are not read. The folders of images are images,
    JPEGImages, Images and PATH, and their folders train, val and test. The category ids keep their order.
    """
    found = [
        f for folder in ("annotations", "Annotations", ".") for f in sorted((path / folder).glob("*.json"))
    ]
    parts = {file: PART_NAMES[file.stem.lower()] for file in found if file.stem.lower() in PART_NAMES}
    files: Mapping[Path, Part | None] = parts or dict.fromkeys(found)
    if not files:
        raise layout_error(name, path, "COCO files (annotations/train.json and the like, or any *.json)")
    images: list[ImageWithBoxes] = []
    categories: dict[int, str] = {}
    for file, part in files.items():
        images += _coco_file(path, file, part, categories)
    names = tuple(categories[number] for number in sorted(categories))
    return DetectionData(tuple(images), names)


def read_voc(path: Path, name: str) -> DetectionData:
    """Read VOC: Annotations/*.xml, JPEGImages/* and, if there, ImageSets/Main/{train,val,test}.txt.

    Also Annotations_train and JPEGImages_train (SSDD), and labels beside their images. Of a rotated box are
    read: rotated_bndbox or robndbox with x1 to y4 or with centre, size and angle (radians, clockwise; degrees
    where the tag is a theta), and points/point ("x, y") as the Gaofen sets write them.
    """
    labels = list(_voc_labels(path))
    if not labels:
        raise layout_error(name, path, "VOC labels (Annotations/*.xml beside JPEGImages/*)")
    listed = _image_sets(path)
    images = []
    for label, folders, part in labels:
        part = listed.get(label.stem, None) if listed else part
        if listed and part is None:
            continue
        images.append(_voc_image(path, label, folders, part))
    names = tuple(sorted({box.category for image in images for box in image.boxes}))
    return DetectionData(tuple(images), names)


def read_yolo(path: Path, name: str, names: Sequence[str] = ()) -> DetectionData:
    """Read YOLO: a .txt per image with lines "class cx cy w h" (or "class x1 y1 .. x4 y4"), as shares.

    The layouts are images/train/* with labels/train/*, train/images/* with train/labels/*, images/* with
    labels/*, and both side by side in PATH. An image without a label file is background.

    Args:
        path: The folder.
        name: The data set's name in error messages.
        names: The categories; without them classes.txt or the `names` of a data.yaml in PATH, else class_0.
    """
    pairs = list(_yolo_pairs(path))
    if not any(label.is_file() for _, label, _ in pairs):
        raise layout_error(
            name, path, "YOLO labels (images/* beside labels/*.txt, by part or not, or side by side)"
        )
    known = tuple(names) or _yolo_names(path)
    images = [_yolo_image(path, image, label, part, known) for image, label, part in pairs]
    used = {box.category for image in images for box in image.boxes}
    return DetectionData(tuple(images), known or tuple(sorted(used)))


def _coco_file(
    path: Path, file: Path, part: Part | None, categories: dict[int, str]
) -> Iterator[ImageWithBoxes]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        named = {int(c["id"]): str(c["name"]) for c in table["categories"]}
        by_image: dict[Any, list[Box]] = {image["id"]: [] for image in table["images"]}
        for a in table["annotations"]:
            x, y, width, height = (float(value) for value in a["bbox"])
            difficult = bool(a.get("iscrowd")) or bool(a.get("ignore"))
            box = Box(named[a["category_id"]], x, y, width, height, difficult=difficult)
            by_image[a["image_id"]].append(_checked(box))
        images = [(i["id"], str(i["file_name"]), int(i["width"]), int(i["height"])) for i in table["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{file} is no valid COCO file ({error!r}): correct it, or remove it") from None
    for number, category in named.items():
        if categories.setdefault(number, category) != category:
            raise DatasetError(
                f"{file} names category {number} {category}, and another file names it "
                f"{categories[number]}: give each number one name"
            )
    for number, file_name, width, height in images:
        image_file = _image_named(path, file_name, part)
        name = image_file.relative_to(path).as_posix()
        yield ImageWithBoxes(image_file, name, tuple(by_image[number]), width, height, part)


def _image_named(path: Path, file_name: str, part: Part | None) -> Path:
    """Return the path of an image; its folder in a COCO file may be that of another machine."""
    plain = file_name.replace("\\", "/")
    names = dict.fromkeys((plain, plain.rpartition("/")[2]))
    inner = ("", *(n for n, p in PART_NAMES.items() if p == part)) if part else ("",)
    for folder in IMAGE_FOLDERS:
        for middle in inner:
            for name in names:
                if (file := path / folder / middle / name).is_file():
                    return file
    raise DatasetError(
        f"the image {file_name} does not exist in {', '.join(IMAGE_FOLDERS)} of {path} (or in their folder "
        f"{part or 'of a part'}): complete the data set"
    )


def _voc_labels(path: Path) -> Iterator[tuple[Path, list[Path], Part | None]]:
    """Yield each label, the possible folders of its image, and the part by its folder's name."""
    image_folders = [path / "JPEGImages", path / "images", path / "PNGImages", path / "data", path]
    for folder in ("Annotations", "annotations", "xml", "."):
        for label in sorted((path / folder).glob("*.xml")):
            yield label, image_folders, None
    for part_name, part in PART_NAMES.items():
        for label in sorted((path / f"Annotations_{part_name}").glob("*.xml")):
            yield label, [path / f"JPEGImages_{part_name}", path / "JPEGImages"], part
    # AIR-SARShip-1.0-xml beside AIR-SARShip-1.0-data.
    for labels in sorted(path.glob("*-xml")):
        for label in sorted(labels.glob("*.xml")):
            yield label, [path / f"{labels.name.removesuffix('-xml')}-data"], None


def _image_sets(path: Path) -> dict[str, Part]:
    """Return the part of each file stem that ImageSets/Main lists."""
    listed: dict[str, Part] = {}
    for file in sorted((path / "ImageSets" / "Main").glob("*.txt")):
        if part := PART_NAMES.get(file.stem.lower()):
            for line in file.read_text(encoding="utf-8").split("\n"):
                if line.strip():
                    listed[line.split()[0].removesuffix(".jpg")] = part
    return listed


def _voc_image(path: Path, label: Path, folders: Sequence[Path], part: Part | None) -> ImageWithBoxes:
    try:
        root = ET.parse(label).getroot()
        boxes = tuple(_voc_box(entry) for entry in (*root.iter("object"), *root.iter("HRSC_Object")))
    except (ET.ParseError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DatasetError(f"{label} is no valid VOC label ({error!r}): correct it, or remove it") from None
    candidates = (f / f"{label.stem}{suffix}" for f in folders for suffix in sorted(IMAGE_SUFFIXES))
    image_file = next((file for file in candidates if file.is_file()), None)
    if image_file is None:
        raise DatasetError(
            f"the image of {label} does not exist in {', '.join(str(f) for f in folders)}: complete the data "
            "set, or remove the label"
        )
    height, width = image_size(image_file)
    return ImageWithBoxes(image_file, image_file.relative_to(path).as_posix(), boxes, width, height, part)


def _voc_box(entry: ET.Element) -> Box:
    category = (entry.findtext("name") or entry.findtext("possibleresult/name") or "").strip()
    if not category:
        raise ValueError("an object without a name")
    difficult = (entry.findtext("difficult") or "0").strip() == "1"
    corners = _corners(entry)
    bounds = entry.find("bndbox")
    if bounds is not None:
        left, top, right, bottom = (float(bounds.findtext(t) or "") for t in ("xmin", "ymin", "xmax", "ymax"))
    elif corners is not None:
        left, right, top, bottom = (
            min(corners[::2]),
            max(corners[::2]),
            min(corners[1::2]),
            max(corners[1::2]),
        )
    else:
        raise ValueError(f"an object {category} without a box")
    return _checked(Box(category, left, top, right - left, bottom - top, corners, difficult))


def _checked(box: Box) -> Box:
    """Return the box if it is valid.

    Raises:
        ValueError: A number is not finite, or the width or height is negative.
    """
    sides = (box.x, box.y, box.width, box.height)
    if not all(map(math.isfinite, sides)) or min(box.width, box.height) < 0:
        raise ValueError(f"a box of x, y, width and height {', '.join(f'{side:g}' for side in sides)}")
    return box


def _corners(entry: ET.Element) -> tuple[float, ...] | None:
    for tag in ("rotated_bndbox", "robndbox"):
        rotated = entry.find(tag)
        if rotated is None:
            continue
        named = {child.tag.rpartition("_")[2]: float(child.text or "") for child in rotated}
        keys = tuple(f"{axis}{number}" for number in range(1, 5) for axis in "xy")
        if all(key in named for key in keys):
            return tuple(named[key] for key in keys)
        angle = math.radians(named["theta"]) if "theta" in named else named["angle"]
        return rotated_corners(named["cx"], named["cy"], named["w"], named["h"], angle)
    points = [
        [float(value) for value in (point.text or "").split(",")] for point in entry.iterfind("points/point")
    ]
    if any(len(point) != 2 for point in points):
        raise ValueError(f"points of {len(points[0])} numbers")
    # A fifth point closes the ring.
    return tuple(value for point in points[:4] for value in point) if len(points) >= 4 else None


def rotated_corners(cx: float, cy: float, width: float, height: float, angle: float) -> tuple[float, ...]:
    """Return x1, y1 to x4, y4 of a box rotated by `angle` radians, clockwise on the screen."""
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    half = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    return tuple(float(value) for value in (half @ rotation.T + (cx, cy)).ravel())


def _yolo_pairs(path: Path) -> Iterator[tuple[Path, Path, Part | None]]:
    layouts: list[tuple[Path, Path, Part | None]] = []
    for folder, known in PART_NAMES.items():
        layouts.append((path / "images" / folder, path / "labels" / folder, known))
        layouts.append((path / folder / "images", path / folder / "labels", known))
    layouts += [(path / "images", path / "labels", None), (path, path, None)]
    for image_folder, labels, part in layouts:
        for image in list_images(image_folder):
            yield image, labels / f"{image.stem}.txt", part


def _yolo_names(path: Path) -> tuple[str, ...]:
    if (file := path / "classes.txt").is_file():
        return tuple(line.strip() for line in file.read_text(encoding="utf-8").split("\n") if line.strip())
    for file in sorted(path.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        _, found, rest = text.partition("names:")
        if found and rest.lstrip(" ").startswith("["):
            return tuple(word.strip(" '\"\n") for word in rest[: rest.index("]")].strip(" [").split(","))
        if found:
            lines = rest.split("\n")[1:]
            entries = [line.strip().lstrip("-").partition(":") for line in lines if line[:1] in (" ", "-")]
            return tuple((value or key).strip(" '\"") for key, _, value in entries)
    return ()


def _yolo_image(
    path: Path, image: Path, label: Path, part: Part | None, names: Sequence[str]
) -> ImageWithBoxes:
    height, width = image_size(image)
    boxes = []
    # Bytes that are no UTF-8 become lines that are no YOLO lines.
    lines = label.read_text(encoding="utf-8", errors="replace").split("\n") if label.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            values = [float(word) for word in line.split()]
            if not values:
                continue
            index, shares = int(values[0]), np.array(values[1:])
            # Pixels instead of shares are a common mistake.
            if index < 0 or np.abs(shares).max(initial=0) > _LARGEST_SHARE:
                raise ValueError(line)
            category = names[index] if names else f"class_{index}"
            boxes.append(_checked(_yolo_box(category, shares, width, height)))
        except (ValueError, IndexError):
            raise DatasetError(
                f"{label}, line {number} is no YOLO line of a known class with coordinates as shares of the "
                f"image: {line.strip()!r}"
            ) from None
    return ImageWithBoxes(image, image.relative_to(path).as_posix(), tuple(boxes), width, height, part)


def _yolo_box(category: str, shares: np.ndarray[Any, np.dtype[np.float64]], width: int, height: int) -> Box:
    if shares.size == 4:
        cx, cy, w, h = (shares * (width, height, width, height)).tolist()
        return Box(category, cx - w / 2, cy - h / 2, w, h)
    if shares.size != 8:
        raise ValueError(f"{shares.size} numbers")
    points = shares.reshape(4, 2) * (width, height)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    corners = tuple(float(value) for value in points.ravel())
    return Box(category, left, top, right - left, bottom - top, corners)
