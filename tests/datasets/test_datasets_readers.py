"""Every reader on a small made copy of its layout, and on real files where they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusar_klip.datasets.box_formats import rotated_corners
from fusar_klip.datasets.labelled_data import IGNORED, DatasetNotFoundError, read_mask
from fusar_klip.datasets.registry import (
    DATASETS,
    markdown_table,
    read_classification_images,
    read_detection,
    read_segmentation,
    readers,
)
from fusar_klip.datasets.segmentation_sets import BINARY
from fusar_klip.datasets.specs import Task
from fusar_klip.errors import DatasetError
from fusar_klip.image_io import read_image

DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


def picture(path: Path, size: tuple[int, int] = (20, 10), colour: object = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def voc(objects: str) -> str:
    return f"<annotation><size><width>20</width></size>{objects}</annotation>"


BNDBOX = (
    "<object><name>ship</name><difficult>1</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>8</xmax>"
    "<ymax>7</ymax></bndbox></object>"
)


def coco(images: list[str], categories: tuple[str, ...] = ("ship",)) -> str:
    return json.dumps(
        {
            "images": [{"id": i, "file_name": n, "width": 20, "height": 10} for i, n in enumerate(images)],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [2, 3, 6, 4], "iscrowd": 0}],
            "categories": [{"id": i, "name": name} for i, name in enumerate(categories, start=1)],
        }
    )


def coco_of(old: str, new: str) -> str:
    """Return a COCO file of val.png with something changed."""
    text = coco(["val.png"], ("ship", "aircraft"))
    assert old in text
    return text.replace(old, new)


HALF_A_BOX = "<object><name>a</name><robndbox><cx>1</cx><cy>1</cy><w>2</w><h>2</h></robndbox></object>"
BROKEN_RING = "<object><name>a</name><points>" + 4 * "<point>1</point>" + "</points></object>"


# ---- classification


def test_fusar_ship(tmp_path: Path) -> None:
    picture(tmp_path / "Cargo" / "BulkCarrier" / "Ship_C01S02N0001.tiff")
    picture(tmp_path / "Tanker" / "Ship_C05S01N0001.png")
    text(
        tmp_path / "meta.csv",
        "id,mmsi,length,width,polarMode,centerLookAngle,heightspace,widthspace,path\n"
        "Ship_C01S02N0001,1,2,3,DH,27,1.5,1.1,Cargo\\BulkCarrier\n",
    )
    images = read_classification_images("fusar_ship", tmp_path, "FUSAR-SHIP")
    assert [(i.label, i.part) for i in images] == [("Cargo", None), ("Tanker", None)]
    assert images[0].gsd_m == pytest.approx((1.5 * 1.1) ** 0.5)
    assert images[1].gsd_m is None
    text(tmp_path / "meta.csv", "id,path\nShip_C01S02N0001,Cargo\n")
    with pytest.raises(DatasetError, match="heightspace"):
        read_classification_images("fusar_ship", tmp_path, "FUSAR-SHIP")


@pytest.mark.parametrize("root", ["", "images"])
@pytest.mark.parametrize("reader", ["sar_acd", "fusar_air", "class_folders"])
def test_class_folders_without_a_split(tmp_path: Path, reader: str, root: str) -> None:
    for name in ("A220/001.jpg", "A330/001.jpg"):
        picture(tmp_path / root / name)
    images = read_classification_images(reader, tmp_path, "D")  # type: ignore[arg-type]
    assert [(i.label, i.part, i.group) for i in images] == [("A220", None, None), ("A330", None, None)]
    assert images[0].gsd_m == (1.0 if reader == "sar_acd" else None)


def test_mstar_in_its_original_tree(tmp_path: Path) -> None:
    picture(tmp_path / "TRAIN/17_DEG/T72/SN_132/HB03814.015.jpg")
    picture(tmp_path / "TRAIN/17_DEG/BTR_60/HB0.003.jpg")
    picture(tmp_path / "TEST/15_DEG/ZSU_23_4/HB1.026.jpg")
    images = read_classification_images("mstar", tmp_path, "MSTAR")
    assert {(i.label, i.part, i.gsd_m) for i in images} == {
        ("T72", "train", 0.3),
        ("BTR60", "train", 0.3),
        ("ZSU234", "test", 0.3),
    }


@pytest.mark.parametrize("folder", ["Patch_Uint8", "Patch_Cal"])
def test_opensarship(tmp_path: Path, folder: str) -> None:
    prefix = "Visualize_" if folder == "Patch_Uint8" else ""
    for scene, ship in (("S1A_1", "Cargo_x10_y20"), ("S1A_1", "Tanker_x30_y5"), ("S1A_2", "Cargo_x10_y20")):
        for polarization in ("VH", "VV"):
            picture(tmp_path / scene / folder / f"{prefix}{ship}_{polarization}.tif")
        text(tmp_path / scene / "Ship.xml", "<ships/>")
    images = read_classification_images("opensarship", tmp_path, "OpenSARShip")
    assert [(i.label, i.group, i.file.stem[-2:]) for i in images] == [
        ("Cargo", "S1A_1", "VV"),
        ("Tanker", "S1A_1", "VV"),
        ("Cargo", "S1A_2", "VV"),
    ]
    picture(tmp_path / "S1A_2" / folder / "other.tif")
    with pytest.raises(DatasetError, match="TYPE_xX_yY"):
        read_classification_images("opensarship", tmp_path, "OpenSARShip")


# ---- detection


def lay_ssdd(root: Path) -> None:
    base = root / "BBox_SSDD" / "coco_style"
    for part in ("train", "test"):
        picture(base / "images" / part / f"{part}.jpg")
        text(base / "annotations" / f"{part}.json", coco([f"{part}.jpg"]))
    text(base / "annotations" / "test_inshore.json", coco(["test.jpg"]))


def lay_ssdd_voc(root: Path) -> None:
    for part in ("train", "test"):
        picture(root / "RBox_SSDD" / "voc_style" / f"JPEGImages_{part}" / f"{part}.jpg")
        text(root / "RBox_SSDD" / "voc_style" / f"Annotations_{part}" / f"{part}.xml", voc(BNDBOX))


def lay_hrsid(root: Path) -> None:
    for part, name in (("train", "P0001_0_800_0_800.jpg"), ("test", "P0001_600_1400_0_800.jpg")):
        picture(root / "HRSID_JPG" / "JPEGImages" / name)
        text(root / "HRSID_JPG" / "annotations" / f"{part}2017.json", coco([name]))


def lay_sardet(root: Path) -> None:
    for part in ("train", "val", "test"):
        picture(root / "JPEGImages" / part / f"{part}.png")
        text(root / "Annotations" / f"{part}.json", coco([f"{part}.png"], ("ship", "aircraft")))


def lay_flat_yolo(root: Path) -> None:
    folder = root / "ship_dataset_v0"
    picture(folder / "Gao_ship_hh_1.jpg")
    text(folder / "Gao_ship_hh_1.txt", "0 0.25 0.5 0.3 0.4\n")


def lay_yolo_parts(root: Path) -> None:
    for part in ("train", "val"):
        picture(root / "images" / part / f"{part}.jpg")
        text(root / "labels" / part / f"{part}.txt", "0 0.25 0.5 0.3 0.4\n")
    picture(root / "images" / "train" / "background.jpg")


def lay_voc(root: Path) -> None:
    for part in ("train", "val", "test"):
        picture(root / "JPEGImages" / f"{part}.jpg")
        text(root / "Annotations" / f"{part}.xml", voc(BNDBOX))
        text(root / "ImageSets" / "Main" / f"{part}.txt", f"{part}\n")


def lay_msar(root: Path) -> None:
    picture(root / "MSAR-1.0 dataset" / "JPEGImages" / "01.jpg", mode="RGB")
    text(root / "MSAR-1.0 dataset" / "Annotations" / "01.xml", voc(BNDBOX))


def lay_air_sarship(root: Path) -> None:
    picture(root / "AIR-SARShip-2.0-data" / "83.tiff")
    points = "".join(f"<point>{x}, {y}</point>" for x, y in ((2, 3), (8, 3), (8, 7), (2, 7), (2, 3)))
    named = "<possibleresult><name>ship</name></possibleresult>"
    text(root / "AIR-SARShip-2.0-xml" / "83.xml", voc(f"<object>{named}<points>{points}</points></object>"))


PARTED = {"train": 1, "val": 1, "test": 1}
BOXES: list[tuple[str, Callable[[Path], None], dict[str | None, int]]] = [
    ("ssdd", lay_ssdd, {"train": 1, "test": 1}),
    ("ssdd", lay_ssdd_voc, {"train": 1, "test": 1}),
    ("hrsid", lay_hrsid, {"train": 1, "test": 1}),
    ("sardet_100k", lay_sardet, PARTED),
    ("sar_ship_dataset", lay_flat_yolo, {None: 1}),
    ("sadd", lay_yolo_parts, {"train": 2, "val": 1}),
    ("sar_aircraft", lay_voc, PARTED),
    ("msar", lay_msar, {None: 1}),
    ("air_sarship", lay_air_sarship, {None: 1}),
    ("fusar_ship_sense", lay_voc, PARTED),
    ("fusar_air_sense", lay_sardet, PARTED),
    ("coco", lay_sardet, PARTED),
    ("voc", lay_voc, PARTED),
    ("yolo", lay_yolo_parts, {"train": 2, "val": 1}),
]


@pytest.mark.parametrize(("reader", "lay", "parts"), BOXES, ids=[f"{r}-{f.__name__}" for r, f, _ in BOXES])
def test_detection_layouts(
    tmp_path: Path, reader: str, lay: Callable[[Path], None], parts: dict[str | None, int]
) -> None:
    lay(tmp_path)
    data = read_detection(reader, tmp_path, reader)
    counted = {part: sum(i.part == part for i in data.images) for part in {i.part for i in data.images}}
    assert counted == parts
    boxed = [image for image in data.images if image.boxes]
    assert len(boxed) == len(data.images) - (1 if lay is lay_yolo_parts else 0)
    for image in boxed:
        (box,) = image.boxes
        assert (box.x, box.y, box.width, box.height) == pytest.approx((2, 3, 6, 4))
        assert box.category in data.classes
        assert (image.width, image.height) == (20, 10)
        assert image.file == tmp_path / image.name
        assert image.file.is_file()
    if reader == "hrsid":
        assert {image.group for image in data.images} == {"P0001"}
        assert any("1 groups are in both parts" in note for note in data.notes)


def test_every_detection_set_has_a_made_layout() -> None:
    assert {reader for reader, _, _ in BOXES} == set(readers("detection"))


def test_rotated_boxes(tmp_path: Path) -> None:
    ring = "".join(
        f"<{axis}{n}>{value}</{axis}{n}>"
        for n, point in enumerate(((4, 1), (8, 5), (6, 7), (2, 3)), start=1)
        for axis, value in zip("xy", point, strict=True)
    )
    turned = "<cx>10</cx><cy>5</cy><w>4</w><h>2</h><angle>1.5707963267948966</angle>"
    objects = (
        f"<object><name>a</name><rotated_bndbox>{ring}</rotated_bndbox></object>"
        f"<object><name>b</name><robndbox>{turned}</robndbox></object>"
    )
    picture(tmp_path / "JPEGImages" / "1.png")
    text(tmp_path / "Annotations" / "1.xml", voc(objects))
    first, second = read_detection("voc", tmp_path, "D").images[0].boxes
    assert first.corners == (4, 1, 8, 5, 6, 7, 2, 3)
    assert (first.x, first.y, first.width, first.height) == (2, 1, 6, 6)
    assert (second.x, second.y, second.width, second.height) == pytest.approx((9, 3, 2, 4))
    corners = np.array(rotated_corners(0, 0, 4, 2, np.pi / 6)).reshape(4, 2)
    assert np.linalg.norm(corners[0] - corners[1]) == pytest.approx(4)
    assert np.linalg.norm(corners[1] - corners[2]) == pytest.approx(2)
    # Clockwise on the screen: the right end of the upper edge goes down.
    assert corners[1, 1] > corners[0, 1]

    text(tmp_path / "yolo" / "1.txt", "0 0.1 0.1 0.5 0.1 0.5 0.4 0.1 0.4")
    text(tmp_path / "yolo" / "classes.txt", "tank\n")
    picture(tmp_path / "yolo" / "1.png")
    (box,) = read_detection("yolo", tmp_path / "yolo", "D").images[0].boxes
    assert (box.category, box.corners) == ("tank", pytest.approx((2, 1, 10, 1, 10, 4, 2, 4)))


@pytest.mark.parametrize(
    "names", ["names: [a, 'b']", "nc: 2\nnames:\n  0: a\n  1: b\n", "names:\n- a\n- b\n"]
)
def test_yolo_names(tmp_path: Path, names: str) -> None:
    lay_yolo_parts(tmp_path)
    text(tmp_path / "data.yaml", names)
    assert read_detection("yolo", tmp_path, "D").classes == ("a", "b")


@pytest.mark.parametrize(
    ("reader", "lay", "file", "content", "words"),
    [
        ("coco", lay_sardet, "Annotations/val.json", "{}", "no valid COCO file"),
        ("coco", lay_sardet, "Annotations/val.json", coco(["gone.png"]), "image gone.png does not exist"),
        ("coco", lay_sardet, "Annotations/val.json", coco(["val.png"], ("tank",)), "names category 1 tank"),
        ("voc", lay_voc, "Annotations/val.xml", "<annotation>", "no valid VOC label"),
        ("voc", lay_voc, "Annotations/val.xml", voc("<object><name>a</name></object>"), "without a box"),
        ("coco", lay_sardet, "Annotations/val.json", coco_of('"width": 20, ', ""), "KeyError('width')"),
        ("coco", lay_sardet, "Annotations/val.json", coco_of("[2, 3, 6, 4]", "[2, 3, -6, 4]"), "-6, 4"),
        ("coco", lay_sardet, "Annotations/val.json", coco_of("[2, 3, 6, 4]", "[2, NaN, 6, 4]"), "2, nan"),
        ("voc", lay_voc, "Annotations/val.xml", voc(BNDBOX.replace("<xmin>2", "<xmin>9")), "9, 3, -1, 4"),
        ("voc", lay_voc, "Annotations/val.xml", voc(HALF_A_BOX), "no valid VOC label (KeyError('angle'))"),
        ("voc", lay_voc, "Annotations/val.xml", voc(BROKEN_RING), "points of 1 numbers"),
        ("voc", lay_voc, "JPEGImages/val.jpg", "no image", "val.jpg is not a readable image"),
        ("yolo", lay_yolo_parts, "images/val/val.jpg", "no image", "val.jpg is not a readable image"),
        ("yolo", lay_yolo_parts, "labels/val/val.txt", "0 10 5 6 4", "line 1 is no YOLO line"),
        ("yolo", lay_yolo_parts, "labels/val/val.txt", "0 nan 0.5 0.3 0.4", "line 1 is no YOLO line"),
        ("yolo", lay_yolo_parts, "labels/val/val.txt", "-1 0.5 0.5 0.3 0.4", "line 1 is no YOLO line"),
        ("yolo", lay_yolo_parts, "labels/val/val.txt", "0 0.5 0.5", "line 1 is no YOLO line"),
        ("yolo", lay_yolo_parts, "classes.txt", "", None),
    ],
)
def test_wrong_labels_say_where(
    tmp_path: Path, reader: str, lay: Callable[[Path], None], file: str, content: str, words: str | None
) -> None:
    lay(tmp_path)
    text(tmp_path / file, content)
    if words is None:
        assert read_detection(reader, tmp_path, "D").classes == ("class_0",)  # type: ignore[arg-type]
        return
    with pytest.raises(DatasetError, match=re.escape(words)):
        read_detection(reader, tmp_path, "D")  # type: ignore[arg-type]


# ---- segmentation


def lay_fusar_map(root: Path) -> None:
    picture(root / "SAR_1024" / "JiuJiang_01_SAR_001.tif")
    picture(root / "LAB_1024" / "JiuJiang_01_Label_001.tif", colour=(255, 255, 0), mode="RGB")


def lay_air_polarsar(root: Path) -> None:
    for part in ("train", "test"):
        folder = root / f"{part}_set"
        picture(folder / "images" / "HH" / f"{part}_7_HH.tiff")
        picture(folder / "labels" / f"{part}_7_gt.png", colour=(0, 255, 255), mode="RGB")


def lay_ombria(root: Path) -> None:
    for part in ("train", "test"):
        folder = root / "OmbriaS1" / part
        for kind, name, grey in (("BEFORE", "before", 9), ("AFTER", "after", 9), ("MASK", "mask", 255)):
            picture(folder / kind / f"S1_{name}_0007.png", colour=grey)


def lay_sen1floods11(root: Path) -> None:
    for chip in ("Ghana_1", "India_2", "Bolivia_3"):
        folder = root / "v1.1/data/flood_events/HandLabeled"
        for kind in ("S1Hand", "LabelHand"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "S1Hand" / f"{chip}_S1Hand.tif", np.full((2, 8, 8), -12.0, np.float32))
        mask = np.ones((8, 8), np.int16)
        mask[0] = -1
        Image.fromarray(mask.astype(np.int32)).save(folder / "LabelHand" / f"{chip}_LabelHand.tif")
    for stem, chip in (("train", "Ghana_1"), ("test", "India_2"), ("bolivia", "Bolivia_3")):
        text(
            root / f"v1.1/splits/flood_handlabeled/flood_{stem}_data.csv",
            f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n",
        )


def lay_masks(root: Path) -> None:
    for part in ("train", "val", "test"):
        picture(root / part / "images" / f"{part}.png")
        picture(root / part / "masks" / f"{part}.png", colour=7)
    text(root / "classes.csv", "value,name\n7,road\n0,ignored\n")


MASKS: list[tuple[str, Callable[[Path], None], set[str | None], str, float | None]] = [
    ("fusar_map", lay_fusar_map, {None}, "road", None),
    ("air_polarsar_seg", lay_air_polarsar, {"train", "test"}, "water", 8.0),
    ("ombria", lay_ombria, {"train", "test"}, "flooded", 10.0),
    ("sen1floods11", lay_sen1floods11, {"train", "test"}, "water", 10.0),
    ("mask_folders", lay_masks, {"train", "val", "test"}, "road", None),
]


@pytest.mark.parametrize(("reader", "lay", "parts", "there", "gsd_m"), MASKS, ids=[m[0] for m in MASKS])
def test_segmentation_layouts(
    tmp_path: Path,
    reader: str,
    lay: Callable[[Path], None],
    parts: set[str | None],
    there: str,
    gsd_m: float | None,
) -> None:
    lay(tmp_path)
    data = read_segmentation(reader, tmp_path, reader)  # type: ignore[arg-type]
    assert {image.part for image in data.images} == parts
    assert len(data.images) == len(parts)
    for image in data.images:
        classes = read_mask(image.mask, data.table)
        assert set(classes.ravel().tolist()) - {IGNORED} == {data.classes.index(there)}
        assert image.gsd_m == gsd_m
        assert (image.before is not None) == (reader == "ombria")
    if reader == "sen1floods11":
        assert (classes[0] == IGNORED).all()


def test_every_segmentation_set_has_a_made_layout() -> None:
    assert {mask[0] for mask in MASKS} == set(readers("segmentation"))


def test_wrong_masks_say_where(tmp_path: Path) -> None:
    lay_masks(tmp_path)
    picture(tmp_path / "val" / "masks" / "val.png", colour=9)
    data = read_segmentation("mask_folders", tmp_path, "D")
    (image,) = (image for image in data.images if image.part == "val")
    with pytest.raises(DatasetError, match="the value 9 at row 0, column 0"):
        read_mask(image.mask, data.table)
    (tmp_path / "val" / "masks" / "val.png").unlink()
    with pytest.raises(DatasetError, match="has no mask"):
        read_segmentation("mask_folders", tmp_path, "D")
    for table, words in (
        ("value,name\n#12,road\n", "#RRGGBB"),
        ("value,name\n\n", "a row for each class"),
        ("value\n1\n", "columns value and name"),
        ("value,name\n1\n", "a row for each class"),
        ("value,name\n1,ignored\n", "a row for each class"),
        ("value,name\n1,road\n1,rail\n", "the value 1 twice"),
        ("value,name\n" + "".join(f"{n},class {n}\n" for n in range(256)), "256 classes, and at most 255"),
    ):
        text(tmp_path / "classes.csv", table)
        with pytest.raises(DatasetError, match=words):
            read_segmentation("mask_folders", tmp_path, "D")
    (tmp_path / "classes.csv").write_bytes(b"value,name\n1,\xff\n")
    with pytest.raises(DatasetError, match="no CSV in UTF-8"):
        read_segmentation("mask_folders", tmp_path, "D")


@pytest.mark.parametrize("cut", [True, False])
def test_damaged_pictures_are_named(tmp_path: Path, cut: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2] if cut else b"no image")
    for read in (read_image, lambda file: read_mask(file, BINARY)):
        with pytest.raises(DatasetError, match=r"a\.png is not a readable image") as caught:
            read(tmp_path / "a.png")
        assert "\n" not in str(caught.value)


# ---- all


READ = {
    **dict.fromkeys(readers("classification"), read_classification_images),
    **dict.fromkeys(readers("detection"), read_detection),
    **dict.fromkeys(readers("segmentation"), read_segmentation),
}


@pytest.mark.parametrize("reader", READ)
def test_wrong_paths_say_what_was_looked_for_and_where_it_is_had(tmp_path: Path, reader: str) -> None:
    with pytest.raises(DatasetNotFoundError, match="FUSAR_KLIP_DATA") as missing:
        READ[reader](reader, tmp_path / "nowhere", "My set")  # type: ignore[operator]
    assert DATASETS[reader].download in str(missing.value)
    with pytest.raises(DatasetError, match="My set not found") as empty:
        READ[reader](reader, tmp_path, "My set")  # type: ignore[operator]
    assert "\n" not in str(empty.value)


def test_the_docs_list_every_reader() -> None:
    page = DOCS.read_text()
    for task in get_args(Task):
        assert markdown_table(task) in page, markdown_table(task)


@pytest.mark.real_data
def test_real_sets(real_data: Path) -> None:
    ships = read_detection("hrsid", real_data / "det_hrsid_ship", "HRSID")
    assert (len(ships.images), sum(len(i.boxes) for i in ships.images), ships.classes) == (30, 75, ("ship",))
    aircraft = read_detection("sar_aircraft", real_data / "det_sar_aircraft", "SAR-AIRcraft-1.0")
    assert (len(aircraft.images), sum(len(i.boxes) for i in aircraft.images)) == (6, 17)
    assert aircraft.classes == ("A220", "A320/321", "A330", "ARJ21", "Boeing737", "Boeing787", "other")
    samples = read_detection("ssdd", real_data / "det_ssdd_samples", "SSDD")
    assert [image.part for image in samples.images].count("train") == 2
    floods = read_segmentation("ombria", real_data / "seg_ombria", "OMBRIA")
    assert (len(floods.part("train")), len(floods.part("test"))) == (240, 70)
    assert all(image.before for image in floods.images)
    assert set(np.unique(read_mask(floods.images[0].mask, floods.table))) <= {0, 1}
    spain = read_segmentation("sen1floods11", real_data / "geo" / "sen1floods11_spain", "Sen1Floods11")
    (image,) = spain.images
    assert set(np.unique(read_mask(image.mask, spain.table))) <= {0, 1, IGNORED}
    assert read_image(image.file).shape == (512, 512)
    chips = read_classification_images("sar_acd", real_data / "cls_sar_acd", "SAR-ACD")
    assert len(chips) == 2562
    vehicles = read_classification_images("mstar", real_data / "cls_mstar", "MSTAR")
    assert (len(vehicles), len({i.label for i in vehicles})) == (2747 + 1823, 10)
