"""The eight fields: always there, one sentence each, never a NaN, and true to the evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from texts_synthetic import GSD_M, Rod, city, sea_with_ships

from fusar_klip.catalog import FIELDS
from fusar_klip.geo.gazetteer import places
from fusar_klip.texts import measure_tile
from fusar_klip.texts.measure.geography import Geography, look_up_geography, nearby_places
from fusar_klip.texts.measure.sentences import compose
from fusar_klip.texts.phrases import axis, compass_point, distance, number, regions_with_counts, sizes, tenths

NOWHERE = look_up_geography(None, None, 0.6, None, None)
AT_LAX = look_up_geography(-118.408, 33.9425, 0.6, "Los Angeles", "United States")
AT_PORT = look_up_geography(-118.283, 33.717, 0.6, "San Pedro", "United States")


MAX_FIELD_WORDS = 110  # with the fields' names; about 160 WordPiece tokens


def check(fields: dict[str, str]) -> None:
    segments = [f"{field}: {text}" for field, text in fields.items()]
    assert sum(len(segment.split()) for segment in segments) <= MAX_FIELD_WORDS, segments
    for text in fields.values():
        assert text.endswith(".")
        assert text[0].isupper() or text[0].isdigit()
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


@settings(max_examples=15, deadline=None)
@given(
    ships=st.lists(
        st.tuples(
            st.integers(20, 380), st.integers(20, 220), st.integers(20, 250), st.just(24), st.integers(0, 179)
        ),
        min_size=1,
        max_size=12,
    ),
    gsd_m=st.sampled_from([None, 3.0, 10.0]),
    geography=st.sampled_from([NOWHERE, AT_LAX, AT_PORT]),
)
def test_many_ships_before_a_city_stay_within_the_limit_of_words(
    ships: list[Rod], gsd_m: float | None, geography: Geography
) -> None:
    pixels = sea_with_ships(ships)
    pixels[:, 240:] = city()[:, 240:]
    evidence = measure_tile(pixels, gsd_m)
    check(compose(evidence, geography, parent=measure_tile(city(), GSD_M))[1])


def test_neighbours_keep_to_their_share_of_words() -> None:
    for place in places("airport")[::40]:
        geography = look_up_geography(place.lon, place.lat + 0.02, 0.6, place.name, place.country)
        assert len(nearby_places(geography, 2).split()) <= 18


def test_tiles_of_one_kind_read_differently() -> None:
    texts = set()
    for seed in range(4):
        evidence = measure_tile(city(seed=seed), GSD_M)
        texts.add(tuple(compose(evidence, AT_PORT)[1].values()))
    assert len(texts) > 1


def test_ships_are_counted_placed_and_sized_in_words() -> None:
    ships = [(60, 60, 150, 24, 0), (60, 340, 150, 24, 0), (340, 200, 150, 24, 0)]
    pixels = sea_with_ships(ships)
    task, fields = compose(measure_tile(pixels, GSD_M, transform=(3, 0, 0, 0, -3, 0)), AT_PORT)
    assert task == "marine_target"
    assert fields["Count"] == "Three ships."
    assert fields["Location"] == (
        "One in the upper left, one in the upper right and one in the lower centre."
    )
    assert "north to south" in fields["Distribution"]
    assert fields["Category"] == "Medium vessels, type not told at 3 m."
    assert fields["Size"].startswith(("About 145", "About 150"))
    assert fields["Region"].startswith("On open water; port of Los Angeles")


def test_coarse_spacing_claims_less() -> None:
    pixels = sea_with_ships([(200, 200, 300, 60, 0)], gsd_m=10.0)
    _, fields = compose(measure_tile(pixels, 10.0), NOWHERE)
    assert fields["Count"] == "One bright target, probably a ship."


def test_without_coordinates_the_location_is_not_known() -> None:
    _, fields = compose(measure_tile(city(), None), NOWHERE)
    assert "place not known" in fields["Location"]
    assert "relief" in fields["Building"]


def test_an_airport_target_is_never_given_a_type() -> None:
    pixels = city()
    pixels[100:300, 100:300] = sea_with_ships([(100, 100, 40, 30, 0)], size=200)
    task, fields = compose(measure_tile(pixels, GSD_M, airports_rc=[(200, 200)]), AT_LAX)
    assert task == "ground_target"
    assert fields["Count"].startswith("One compact bright target")
    assert "Los Angeles International Airport" in fields["Region"]
    assert "not told apart" in fields["Category"]


def test_a_child_speaks_of_its_parent_where_it_differs() -> None:
    town, sea = measure_tile(city(), GSD_M), measure_tile(sea_with_ships([]), GSD_M)
    assert compose(town, NOWHERE, sea)[1]["Layout"].endswith(", within open water.")
    assert "within" not in compose(town, NOWHERE, town)[1]["Layout"]


def test_an_open_coast_beside_a_port_is_no_harbour() -> None:
    """A straight built-up shore crosses the tile once; the basins of a harbour have two banks."""
    beach, basins = sea_with_ships([]), sea_with_ships([])
    beach[:, 240:] = city()[:, 240:]
    for start in (0, 140, 280):
        basins[start : start + 70, 100:] = city()[start : start + 70, 100:]
        basins[start + 10 : start + 60, 110:250] = 255  # stacks of containers
    assert compose(measure_tile(beach, GSD_M), AT_PORT)[1]["Functionality"] == "Built-up waterfront."
    assert compose(measure_tile(basins, GSD_M), AT_PORT)[1]["Functionality"].startswith("Harbour")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (number(0), "no"),
        (number(12), "twelve"),
        (number(13), "13"),
        (tenths(0.004), "10%"),
        (tenths(0.37), "40%"),
        (tenths(0.996), "90%"),
        (regions_with_counts([4]), "in the centre"),
        (
            regions_with_counts([0, 0, 0, 4, 4, 8, 7]),
            "three in the upper left, two in the centre and two elsewhere",
        ),
        (distance(996), "1 km"),
        (distance(34), "30 m"),
        (distance(2_960), "3 km"),
        (sizes([10, 40], 3.0), "30 to 120 m"),
        (sizes([2.2], None), "2 pixels"),
        (sizes([1], 8.29), "10 m"),
        (compass_point(359), "north"),
        (compass_point(224), "south-west"),
        (axis(178, north_known=True), "north to south"),
        (axis(90, north_known=False), "horizontal"),
    ],
)
def test_wording(value: str, words: str) -> None:
    assert value == words
