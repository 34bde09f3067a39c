"""Sigma0: the look-up table of a SAFE product against an independent interpolation."""

from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import tiles_products_synthetic as synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.calibration import Calibration, calibration_of

LINES, PIXELS = [-30, 100, 250, 400], [0, 40, 80, 200]
SIGMA = np.random.default_rng(0).uniform(200, 700, (4, 4))


@pytest.fixture(scope="module")
def table() -> Calibration:
    return calibration_of(fromstring(synthetic.calibration_xml(LINES, PIXELS, SIGMA)), "table")


@settings(max_examples=100, deadline=None)
@given(row=st.integers(0, 380), col=st.integers(0, 180), height=st.integers(1, 20), width=st.integers(1, 20))
def test_agrees_with_scipys_bilinear_interpolation(
    table: Calibration, row: int, col: int, height: int, width: int
) -> None:
    dn = np.full((height, width), 450, np.uint16)
    written = np.array([[float(f"{value:.6e}") for value in vector] for vector in SIGMA])
    reference = RegularGridInterpolator((LINES, PIXELS), written)
    rows, cols = np.meshgrid(row + np.arange(height), col + np.arange(width), indexing="ij")
    amplitude = table.sigma0(dn, row, col)
    assert amplitude.dtype == np.float32
    np.testing.assert_allclose(amplitude, 450 / reference((rows, cols)), rtol=1e-6)


def test_a_constant_table_divides(table: Calibration) -> None:
    constant = Calibration(table.lines, table.pixels, np.full((4, 4), 500.0))
    dn = np.array([[0, 500, 1000]], np.uint16)
    np.testing.assert_array_equal(constant.sigma0(dn, 5, 5), np.array([[0, 1, 2]], np.float32))
    pair = np.array([[3 + 4j]], np.complex64) * 100
    np.testing.assert_allclose(constant.sigma0(pair, 0, 0), [[1.0]])


def test_windows_agree_with_the_whole(table: Calibration) -> None:
    dn = np.random.default_rng(1).integers(0, 60_000, (300, 150)).astype(np.uint16)
    whole = table.sigma0(dn, 0, 0)
    np.testing.assert_array_equal(table.sigma0(dn[37:99, 50:], 37, 50), whole[37:99, 50:])


def test_beyond_the_table_its_edge_holds(table: Calibration) -> None:
    dn = np.full((1, 1), 100, np.uint16)
    assert table.sigma0(dn, 900, 900)[0, 0] == pytest.approx(100 / SIGMA[-1, -1], rel=1e-5)


def test_vectors_with_columns_of_their_own_are_brought_together() -> None:
    vectors = [(0, "0 10 20", "100 200 300"), (9, "0 20", "100 300")]
    text = "".join(
        f"<calibrationVector><line>{line}</line><pixel>{pixel}</pixel><sigmaNought>{sigma}</sigmaNought>"
        "</calibrationVector>"
        for line, pixel, sigma in vectors
    )
    root = fromstring(f"<c><calibrationVectorList>{text}</calibrationVectorList></c>")
    np.testing.assert_allclose(calibration_of(root, "table").sigma, [[100, 200, 300]] * 2)


@pytest.mark.parametrize(
    ("old", "new", "mend"),
    [
        ("<line>100</line>", "<line>250</line>", "two calibration vectors of one line"),
        ("<line>100</line>", "<line></line>", "without numbers in line"),
        ("0 40 80 200", "0 80 40 200", "damaged calibration vector"),
        ("0 40 80 200", "0 40 80", "damaged calibration vector"),
        ("0 40 80 200", "0 40 nan 200", "without numbers in pixel"),
        ("calibrationVectorList", "calibrationVectors", "has 0 calibration vectors"),
    ],
)
def test_damage_is_named(old: str, new: str, mend: str) -> None:
    text = synthetic.calibration_xml(LINES, PIXELS, SIGMA)
    assert old in text
    with pytest.raises(SceneError, match=mend):
        calibration_of(fromstring(text.replace(old, new)), "table")


@pytest.mark.parametrize("value", ["0", "-3.0", "inf", "x"])
def test_no_table_divides_by_nothing(value: str) -> None:
    text = synthetic.calibration_xml(LINES, PIXELS, SIGMA).replace(f"{SIGMA[2, 1]:.6e}", value)
    with pytest.raises(SceneError, match=r"leave scene\.calibration out"):
        calibration_of(fromstring(text), "table")
