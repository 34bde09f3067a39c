"""Small products as the agencies lay them out, for the tests of tiles.products and tiles.calibration."""

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint

from fusar_klip.errors import SceneError

SAFE_NAME = "S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B.SAFE"
HEIGHT, WIDTH = 120, 160

_ANNOTATION = """<?xml version="1.0" encoding="UTF-8"?>
<product>
  <adsHeader>
    <missionId>S1A</missionId><productType>{product_type}</productType><polarisation>{polarization}</polarisation>
    <mode>IW</mode><swath>IW</swath><startTime>2018-07-16T00:40:42.123456789</startTime>
    <stopTime>2018-07-16T00:41:07.123456</stopTime>
  </adsHeader>
  <generalAnnotation><productInformation><pass>Descending</pass></productInformation></generalAnnotation>
  <imageAnnotation>
    <imageInformation>
      <rangePixelSpacing>1.000000e+01</rangePixelSpacing>
      <azimuthPixelSpacing>1.100000e+01</azimuthPixelSpacing>
      <incidenceAngleMidSwath>{incidence}</incidenceAngleMidSwath>
    </imageInformation>
    <processingInformation><swathProcParamsList count="1"><swathProcParams>
      <rangeProcessing><numberOfLooks>5</numberOfLooks></rangeProcessing>
      <azimuthProcessing><numberOfLooks>1</numberOfLooks></azimuthProcessing>
    </swathProcParams></swathProcParamsList></processingInformation>
  </imageAnnotation>
  <swathTiming><burstList count="0">{bursts}</burstList></swathTiming>
</product>
"""
_MANIFEST = """<?xml version="1.0" encoding="UTF-8"?>
<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="http://www.esa.int/safe/sentinel-1.0"
    xmlns:s1="http://www.esa.int/safe/sentinel-1.0/sentinel-1"
    xmlns:s1sarl1="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1">
  <metadataSection>
    <safe:platform><safe:familyName>{family}</safe:familyName><safe:number>A</safe:number></safe:platform>
    <s1sarl1:instrumentMode><s1sarl1:mode>IW</s1sarl1:mode></s1sarl1:instrumentMode>
    <safe:acquisitionPeriod><safe:startTime>2018-07-16T00:40:42.123456</safe:startTime></safe:acquisitionPeriod>
    <s1:orbitProperties><s1:pass>DESCENDING</s1:pass></s1:orbitProperties>
  </metadataSection>
</xfdu:XFDU>
"""


def message_of(call: Callable[[], object]) -> str:
    """Return the message of the SceneError that a call ends in, "" where it ends well."""
    try:
        call()
    except SceneError as error:
        return str(error)
    return ""


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Damage a document: cut it, swap two of its numbers, write nonsense over a number or anywhere."""
    numbers = [match.span() for match in re.finditer(r"-?\d+(?:\.\d+)?", text)]
    nonsense = draw(
        st.sampled_from(["", "-1", "1e999", "nan", "\x00", "<", "</product>", "9" * 400, "é", "="])
    )
    match draw(st.sampled_from(["cut", "swap", "number", "anywhere"])):
        case "cut":
            return text[: draw(st.integers(0, len(text)))]
        case "swap":
            (a, b), (c, d) = sorted(draw(st.sampled_from(numbers)) for _ in range(2))
            return text if a == c else text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]
        case "number":
            start, end = draw(st.sampled_from(numbers))
        case _:
            start = draw(st.integers(0, len(text)))
            end = start + draw(st.integers(0, 30))
    return text[:start] + nonsense + text[end:]


def annotation(
    polarization: str = "VV", *, incidence: str = "3.8e+01", product_type: str = "GRD", bursts: str = ""
) -> str:
    """Return a product annotation."""
    return _ANNOTATION.format(
        polarization=polarization, incidence=incidence, product_type=product_type, bursts=bursts
    )


def calibration_xml(lines: list[int], pixels: list[int], sigma: NDArray[np.float64]) -> str:
    """Return a calibration annotation whose sigmaNought is `sigma`, (L, P)."""
    vectors = "".join(
        f"<calibrationVector><line>{line}</line><pixel>{' '.join(map(str, pixels))}</pixel>"
        f"<sigmaNought>{' '.join(f'{v:.6e}' for v in row)}</sigmaNought></calibrationVector>"
        for line, row in zip(lines, sigma, strict=True)
    )
    return f"<calibration><calibrationVectorList>{vectors}</calibrationVectorList></calibration>"


def gcps(height: int = HEIGHT, width: int = WIDTH) -> list[GroundControlPoint]:
    """Return a 4 x 4 grid of control points at Kochi, in the mirrored geometry of a descending pass."""
    return [
        GroundControlPoint(row, col, 76.9 - 0.0001 * col + 1e-5 * row, 10.9 - 0.0001 * row, 0.0)
        for row in np.linspace(0, height, 4)
        for col in np.linspace(0, width, 4)
    ]


def write_tiff(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    """Write pixels (H, W) or (bands, H, W) without a CRS."""
    bands = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands.shape[0],
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        **profile,
    ) as raster:
        raster.write(bands)
    return path


def write_safe(folder: Path, name: str = SAFE_NAME) -> Path:
    """Write a Sentinel-1 GRD product of VV and VH with look-up tables; return its folder."""
    safe = folder / name
    sigma = np.array([[300.0, 320.0, 350.0], [310.0, 330.0, 360.0], [320.0, 340.0, 370.0]])
    for number, polarization in enumerate(("vv", "vh"), 1):
        stem = f"s1a-iw-grd-{polarization}-20180716t004042-20180716t004107-022812-02792a-{number:03}"
        pixels = np.random.default_rng(number).integers(50, 900, (HEIGHT, WIDTH)).astype(np.uint16)
        write_tiff(safe / "measurement" / f"{stem}.tiff", pixels, gcps=gcps(), crs="EPSG:4326")
        tables = safe / "annotation" / "calibration"
        tables.mkdir(parents=True, exist_ok=True)
        (safe / "annotation" / f"{stem}.xml").write_text(annotation(polarization.upper()))
        (tables / f"calibration-{stem}.xml").write_text(calibration_xml([0, 60, 119], [0, 80, 159], sigma))
    (safe / "manifest.safe").write_text(_MANIFEST.format(family="SENTINEL-1"))
    return safe


def zip_folder(folder: Path, archive: Path) -> Path:
    """Write a folder into a zip, as the archives hand products out; return the zip."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder.parent))
    return archive


# A north-up affine RPC: (lon, lat) normalised by 0.05 degrees to (col, row) by half the image.
RPC_NUMBERS = {
    "LINE_OFF": HEIGHT / 2,
    "SAMP_OFF": WIDTH / 2,
    "LAT_OFF": 30.9,
    "LONG_OFF": 121.1,
    "HEIGHT_OFF": 20.0,
    "LINE_SCALE": HEIGHT / 2,
    "SAMP_SCALE": WIDTH / 2,
    "LAT_SCALE": 0.05,
    "LONG_SCALE": 0.05,
    "HEIGHT_SCALE": 500.0,
}
RPC_LISTS = {
    "LINE_NUM_COEFF": [0.0, 0.0, -1.0, 0.001] + [0.0] * 16,
    "LINE_DEN_COEFF": [1.0] + [0.0] * 19,
    "SAMP_NUM_COEFF": [0.0, 1.0, 0.0, 0.002] + [0.0] * 16,
    "SAMP_DEN_COEFF": [1.0] + [0.0] * 19,
}
_RPB_NAMES = {
    "OFF": "Offset",
    "SCALE": "Scale",
    "LINE_NUM_COEFF": "lineNumCoef",
    "LINE_DEN_COEFF": "lineDenCoef",
    "SAMP_NUM_COEFF": "sampNumCoef",
    "SAMP_DEN_COEFF": "sampDenCoef",
}


def rpc_text() -> str:
    """Return the RPC with a line for each number, with units as some processors write them."""
    lines = [f"{key}: {value:+.8f} {'pixels' if 'LINE' in key else ''}" for key, value in RPC_NUMBERS.items()]
    lines += [f"{key}_{i}: {v:.9E}" for key, vs in RPC_LISTS.items() for i, v in enumerate(vs, 1)]
    return "\n".join(lines) + "\n"


def rpb_text() -> str:
    """Return the same RPC in DigitalGlobe's spelling."""
    lines = ['satId = "GF3";', 'SpecId = "RPC00B";', "BEGIN_GROUP = IMAGE", "\terrBias = 1.0;"]
    for key, value in RPC_NUMBERS.items():
        what, kind = key.split("_")
        lines.append(f"\t{what.lower()}{_RPB_NAMES[kind]} = {value:.8f};")
    for key, values in RPC_LISTS.items():
        listing = ",\n\t\t\t".join(f"{v:.9E}" for v in values)
        lines.append(f"\t{_RPB_NAMES[key]} = (\n\t\t\t{listing});")
    return "\n".join([*lines, "END_GROUP = IMAGE", "END;", ""])


GF3_NAME = "GF3_KAS_FSI_014480_E121.1_N30.9_20190511_L1A_HHHV_L10003992720"


def meta_xml(*, satellite: str = "GF3", polar_mode: str = "HHHV", latitude: float = 30.9) -> str:
    """Return a level-1A product's meta.xml."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<product>
  <segmentID>1</segmentID><satellite>{satellite}</satellite><orbitID>14480</orbitID><Direction>DEC</Direction>
  <sensor>
    <sensorID>SAR</sensorID><imagingMode>FSI</imagingMode><lamda>0.0555</lamda>
    <RadarCenterFrequency unit="GHz">5.400012</RadarCenterFrequency><lookDirection>R</lookDirection>
    <polarParams><polar><polarMode>{polar_mode}</polarMode></polar></polarParams>
  </sensor>
  <productinfo><NominalResolution>5</NominalResolution><productLevel>1A</productLevel>
    <productType>SLC</productType></productinfo>
  <imageinfo>
    <imagingTime><start>2019-05-11 09:54:12.345678</start><end>2019-05-11 09:54:20.1</end></imagingTime>
    <center><latitude unit="degree">{latitude}</latitude><longitude unit="degree">121.1</longitude></center>
    <widthspace>2.248443</widthspace><heightspace>3.117</heightspace>
    <QualifyValue><HH>13456.7</HH><HV>3456.7</HV><VH>NULL</VH><VV>NULL</VV></QualifyValue>
  </imageinfo>
  <processinfo>
    <incidenceAngleNearRange>36.0</incidenceAngleNearRange><incidenceAngleFarRange>40.0</incidenceAngleFarRange>
    <MultilookRange>1</MultilookRange><MultilookAzimuth>1</MultilookAzimuth>
  </processinfo>
</product>
"""


def write_level1a(folder: Path, *, spelling: str = ".rpc") -> Path:
    """Write a Gaofen-3 level-1A product of HH and HV; return its folder.

    Args:
        folder: Where the product's folder comes to lie.
        spelling: ".rpc" (a line for each number), or ".rpb" (DigitalGlobe's).
    """
    product = folder / GF3_NAME
    for number, polarization in enumerate(("HH", "HV")):
        stem = GF3_NAME.replace("HHHV", polarization)
        pair = np.random.default_rng(number).normal(0, 400, (2, HEIGHT, WIDTH)).astype(np.int16)
        write_tiff(product / f"{stem}.tiff", pair)
        (product / f"{stem}{spelling}").write_text(rpc_text() if spelling == ".rpc" else rpb_text())
    (product / f"{GF3_NAME}.meta.xml").write_text(meta_xml())
    angles = "".join(f"<incidenceValue>{36 + 0.025 * col}</incidenceValue>" for col in range(WIDTH))
    (product / f"{GF3_NAME}.incidence.xml").write_text(
        f"<incidenceAngle><numberofIncidenceValue>{WIDTH}</numberofIncidenceValue>{angles}</incidenceAngle>"
    )
    return product


SCP = (34.0, -118.0, 100.0)
"""Latitude, longitude and height of the SICD scene's centre."""


def sicd_xml(pixel_type: str, height: int = HEIGHT, width: int = WIDTH, *, amplitudes: bool = False) -> str:
    """Return the metadata of a northbound, right-looking scene at `SCP`, 0.5 x 0.7 m on the slant plane."""
    import sarkit.wgs84 as wgs84

    lat, lon, hae = SCP
    scp = wgs84.geodetic_to_cartesian([lat, lon, hae])
    up, east, north = wgs84.up([lat, lon]), wgs84.east([lat, lon]), wgs84.north([lat, lon])
    velocity = 7500.0 * north
    arp = scp + 500e3 * up - 400e3 * east  # the ground lies to the east, right of a northbound pass
    row = (scp - arp) / np.linalg.norm(scp - arp)
    col = np.cross(np.cross(row, north), row)
    col /= -np.linalg.norm(col)  # columns run against the track, so that the image is seen from above
    incidence_deg = np.degrees(np.arctan2(400, 500))

    def xyz(values: NDArray[np.float64]) -> str:
        return "".join(
            f"<{axis}>{value!r}</{axis}>" for axis, value in zip("XYZ", values.tolist(), strict=True)
        )

    def polynomial(position: float, speed: float) -> str:
        return f'<Coef exponent1="0">{position!r}</Coef><Coef exponent1="1">{speed!r}</Coef>'

    arp_poly = "".join(
        f'<{axis} order1="1">{polynomial(a, v)}</{axis}>'
        for axis, a, v in zip("XYZ", arp.tolist(), velocity.tolist(), strict=True)
    )
    table = "".join(f'<Amplitude index="{i}">{i * 0.5}</Amplitude>' for i in range(256)) if amplitudes else ""
    corners = "".join(
        f'<ICP index="{i}"><Lat>{lat + dy}</Lat><Lon>{lon + dx}</Lon></ICP>'
        for i, dy, dx in (
            ("1:FRFC", 5e-4, -5e-4),
            ("2:FRLC", -5e-4, -5e-4),
            ("3:LRLC", -5e-4, 5e-4),
            ("4:LRFC", 5e-4, 5e-4),
        )
    )
    return f"""<SICD xmlns="urn:SICD:1.4.0">
<CollectionInfo><CollectorName>UMBRA-05</CollectorName><CoreName>made-up</CoreName>
<CollectType>MONOSTATIC</CollectType><RadarMode><ModeType>SPOTLIGHT</ModeType></RadarMode>
<Classification>UNCLASSIFIED</Classification></CollectionInfo>
<ImageData><PixelType>{pixel_type}</PixelType>{f'<AmpTable size="256">{table}</AmpTable>' if table else ""}
<NumRows>{height}</NumRows><NumCols>{width}</NumCols><FirstRow>0</FirstRow><FirstCol>0</FirstCol>
<FullImage><NumRows>{height}</NumRows><NumCols>{width}</NumCols></FullImage>
<SCPPixel><Row>{height // 2}</Row><Col>{width // 2}</Col></SCPPixel></ImageData>
<GeoData><EarthModel>WGS_84</EarthModel><SCP><ECF>{xyz(scp)}</ECF>
<LLH><Lat>{lat}</Lat><Lon>{lon}</Lon><HAE>{hae}</HAE></LLH></SCP><ImageCorners>{corners}</ImageCorners></GeoData>
<Grid><ImagePlane>SLANT</ImagePlane><Type>PLANE</Type>
<TimeCOAPoly order1="0" order2="0"><Coef exponent1="0" exponent2="0">0.0</Coef></TimeCOAPoly>
<Row><UVectECF>{xyz(row)}</UVectECF><SS>0.5</SS></Row><Col><UVectECF>{xyz(col)}</UVectECF><SS>0.7</SS></Col></Grid>
<Timeline><CollectStart>2023-01-15T02:03:04.5Z</CollectStart><CollectDuration>3.0</CollectDuration></Timeline>
<Position><ARPPoly>{arp_poly}</ARPPoly></Position>
<RadarCollection><TxFrequency><Min>9.3E9</Min><Max>9.9E9</Max></TxFrequency></RadarCollection>
<ImageFormation><TxRcvPolarizationProc>V:V</TxRcvPolarizationProc><ImageFormAlgo>OTHER</ImageFormAlgo></ImageFormation>
<SCPCOA><SCPTime>0.0</SCPTime><ARPPos>{xyz(arp)}</ARPPos><ARPVel>{xyz(velocity)}</ARPVel>
<ARPAcc><X>0</X><Y>0</Y><Z>0</Z></ARPAcc><SideOfTrack>R</SideOfTrack>
<GrazeAng>{90 - incidence_deg}</GrazeAng><IncidenceAng>{incidence_deg}</IncidenceAng></SCPCOA></SICD>"""


def write_sicd(path: Path, pixels: NDArray[Any], pixel_type: str, xml: str) -> Path:
    """Write a SICD file: complex64 pixels, or the pairs of `sarkit.sicd.PIXEL_TYPES`."""
    import lxml.etree
    import sarkit.sicd as sicd

    security = {"security": {"clas": "U"}}
    with warnings.catch_warnings(), path.open("wb") as file:
        warnings.simplefilter(
            "ignore"
        )  # the metadata have what is needed here, not all that the schema asks for
        metadata = sicd.NitfMetadata(
            xmltree=lxml.etree.ElementTree(lxml.etree.fromstring(xml)),
            file_header_part={"ostaid": "tests", **security},
            im_subheader_part={"isorce": "tests", **security},
            de_subheader_part=security,
        )
        with sicd.NitfWriter(file, metadata) as writer:
            writer.write_image(pixels.astype(sicd.PIXEL_TYPES[pixel_type]["dtype"]))
    return path


def sidd_xml(height: int = HEIGHT, width: int = WIDTH) -> str:
    """Return the metadata of a derived image at `SCP`."""
    lat, lon, _ = SCP
    corners = "".join(
        f'<sicommon:ICP index="{i}"><sicommon:Lat>{lat + dy}</sicommon:Lat>'
        f"<sicommon:Lon>{lon + dx}</sicommon:Lon></sicommon:ICP>"
        for i, dy, dx in (
            ("1:FRFC", 5e-4, -6e-4),
            ("2:FRLC", 5e-4, 6e-4),
            ("3:LRLC", -5e-4, 6e-4),
            ("4:LRFC", -5e-4, -6e-4),
        )
    )
    return f"""<SIDD xmlns="urn:SIDD:3.0.0" xmlns:sicommon="urn:SICommon:1.0">
<ProductCreation><ProductName>made-up</ProductName><ProductClass>Detected Image</ProductClass>
<Classification classification="U"/></ProductCreation>
<Display><PixelType>MONO8I</PixelType></Display><GeoData><EarthModel>WGS_84</EarthModel>
<ImageCorners>{corners}</ImageCorners></GeoData>
<Measurement><PlaneProjection><ProductPlane/><SampleSpacing><sicommon:Row>0.9</sicommon:Row>
<sicommon:Col>0.8</sicommon:Col></SampleSpacing></PlaneProjection>
<PixelFootprint><sicommon:Row>{height}</sicommon:Row><sicommon:Col>{width}</sicommon:Col></PixelFootprint></Measurement>
<ExploitationFeatures><Collection identifier="1"><Information><SensorName>Capella-2</SensorName>
<RadarMode><sicommon:ModeType>STRIPMAP</sicommon:ModeType></RadarMode>
<CollectionDateTime>2023-01-15T02:03:04Z</CollectionDateTime>
<Polarization><TxPolarization>H</TxPolarization><RcvPolarization>H</RcvPolarization></Polarization></Information>
<Geometry><Graze>50.0</Graze></Geometry></Collection></ExploitationFeatures></SIDD>"""


def write_sidd(path: Path, pixels: NDArray[np.uint8], xml: str) -> Path:
    """Write a SIDD file of 8-bit pixels."""
    import lxml.etree
    import sarkit.sidd as sidd

    security = {"security": {"clas": "U"}}
    with warnings.catch_warnings(), path.open("wb") as file:
        warnings.simplefilter("ignore")
        image = sidd.NitfProductImageMetadata(
            xmltree=lxml.etree.ElementTree(lxml.etree.fromstring(xml)),
            im_subheader_part=security,
            de_subheader_part=security,
        )
        metadata = sidd.NitfMetadata(file_header_part={"ostaid": "tests", **security}, images=[image])
        with sidd.NitfWriter(file, metadata) as writer:
            writer.write_image(0, pixels)
    return path
