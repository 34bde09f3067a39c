"""The eight fields: always there, one sentence each, never a NaN, and true to the evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from texts_synthetic import GSD_M, city, sea_with_ships

from fusar_klip.catalog import FIELDS
from fusar_klip.texts import measure_tile
from fusar_klip.texts.geography import Geography, locate
from fusar_klip.texts.sentences import compose
from fusar_klip.texts.wording import axis, distance, number, percent, sizes, wind

NOWHERE = locate(None, None, 0.6, None, None)
AT_LAX = locate(-118.408, 33.9425, 0.6, "Los Angeles", "United States")
AT_PORT = locate(-118.283, 33.717, 0.6, "San Pedro", "United States")


def check(fields: dict[str, str]) -> None:
    for text in fields.values():
        assert text.endswith(".")
        assert text[0].isupper()
        assert ".." not in text
        assert "  " not in text
        for word in ("nan", "none", "inf"):
            assert word not in text.lower().replace(".", " ").replace(",", " ").split()


@settings(max_examples=25, deadline=None)
@given(
    blocks=arrays(np.uint8, (6, 6), elements=st.sampled_from([0, 12, 40, 120, 250])),
    gsd_m=st.sampled_from([None, 1.0, 8.29]),
    geography=st.sampled_from([NOWHERE, AT_LAX, AT_PORT]),
)
def test_every_tile_gets_eight_sentences(
    blocks: np.ndarray, gsd_m: float | None, geography: Geography
) -> None:
    pixels = np.kron(blocks, np.ones((20, 20), np.uint8))
    airports = [(60.0, 60.0)] if geography is AT_LAX else []
    evidence = measure_tile(pixels, gsd_m, airports_rc=airports)
    task, fields = compose(evidence, geography, parent=evidence)
    assert tuple(fields) == FIELDS[task]
    check(fields)


def test_ships_are_counted_placed_and_sized_in_words() -> None:
    ships = [(60, 60, 150, 24, 0), (60, 340, 150, 24, 0), (340, 200, 150, 24, 0)]
    pixels = sea_with_ships(ships)
    task, fields = compose(measure_tile(pixels, GSD_M, transform=(3, 0, 0, 0, -3, 0)), AT_PORT)
    assert task == "marine_target"
    assert fields["Count"] == "Three ships."
    assert fields["Location"] == (
        "One in the upper left, one in the upper right and one in the lower centre of the image."
    )
    assert "north to south" in fields["Distribution"]
    assert "type of ship cannot be told" in fields["Category"]
    assert fields["Size"].startswith(("About 145", "About 150"))
    assert "at the port of Los Angeles" in fields["Region"]


def test_coarse_spacing_claims_less() -> None:
    pixels = sea_with_ships([(200, 200, 300, 60, 0)], gsd_m=10.0)
    _, fields = compose(measure_tile(pixels, 10.0), NOWHERE)
    assert fields["Count"] == "One bright target on the water, probably a ship."


def test_without_coordinates_the_location_is_not_known() -> None:
    _, fields = compose(measure_tile(city(), None), NOWHERE)
    assert "location of the tile on the ground is not known" in fields["Location"]
    assert "pixels" not in fields["Building"]
    assert "heights of buildings are not measured" in fields["Building"]


def test_an_airport_target_is_never_given_a_type() -> None:
    pixels = city()
    pixels[100:300, 100:300] = sea_with_ships([(100, 100, 40, 30, 0)], size=200)
    task, fields = compose(measure_tile(pixels, GSD_M, airports_rc=[(200, 200)]), AT_LAX)
    assert task == "ground_target"
    assert fields["Count"].startswith("One compact bright target")
    assert "Los Angeles International Airport (KLAX)" in fields["Region"]
    assert "does not tell" in fields["Category"]


def test_a_child_speaks_of_its_parent() -> None:
    parent = measure_tile(sea_with_ships([]), GSD_M)
    _, fields = compose(measure_tile(city(), GSD_M), NOWHERE, parent)
    assert "the larger tile around it holds dark water throughout" in fields["Layout"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (number(0), "no"),
        (number(12), "twelve"),
        (number(13), "13"),
        (percent(0.004), "under 1 %"),
        (percent(0.37), "about 35 %"),
        (percent(0.996), "nearly all"),
        (distance(996), "1 km"),
        (distance(34), "30 m"),
        (distance(2_960), "3 km"),
        (sizes([10, 40], 3.0), "30 to 120 m"),
        (sizes([2.2], None), "2 pixels"),
        (sizes([1], 8.29), "10 m"),
        (wind(359), "north"),
        (wind(224), "south-west"),
        (axis(178, north_known=True), "north to south"),
        (axis(90, north_known=False), "horizontal"),
    ],
)
def test_wording(value: str, words: str) -> None:
    assert value == words
