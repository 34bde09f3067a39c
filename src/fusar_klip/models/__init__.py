"""The network (paper 3.3), its losses, preprocessing, tokenizer and checkpoints; published models.

Tiles are read with Pillow, never with rasterio or geopandas. Nothing is trained or evaluated here.
"""

from fusar_klip.models.capability import Capability
from fusar_klip.models.klip import Klip, Text
from fusar_klip.models.model_ref import ModelRef, load
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.preprocess import ImageInput, Preprocess
from fusar_klip.models.protocols import VisionEncoder, VisionLanguageModel
from fusar_klip.models.settings import MODELS, ModelName, ModelSettings
from fusar_klip.models.tile_cache import TileCache, open_tile_cache
from fusar_klip.models.tokenizer import Tokenizer

__all__ = [
    "MODELS",
    "Capability",
    "ImageInput",
    "Klip",
    "KlipNetwork",
    "ModelName",
    "ModelRef",
    "ModelSettings",
    "Preprocess",
    "Text",
    "TileCache",
    "Tokenizer",
    "VisionEncoder",
    "VisionLanguageModel",
    "load",
    "open_tile_cache",
]
