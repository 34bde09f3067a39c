"""The model zoo: the compared vision encoders (paper, table 2), from other projects' files.

`fusar-klip models` prints the table; `fusar-klip benchmark NAME:FILE` measures one. It trains nothing. The
loader is `encoder.load_zoo`; this module imports the table alone, so that listing it needs no torch.
"""

from fusar_klip.models.pretrained.registry import ZOO, ZooModel

__all__ = ["ZOO", "ZooModel"]
