"""Other projects' weights: published models by name, and the initial weights of `pretrain`.

`registry` lists the published models as data. `weight_files` finds files and reads tensors, `key_layouts`
renames them, `state_dict` loads them and reports what does not fit; `encoder` (published models) and
`init_weights` (`init.image`, `init.text`) use all three. Nothing is trained here.
"""

from fusar_klip.models.pretrained.registry import PRETRAINED, PretrainedSpec

__all__ = ["PRETRAINED", "PretrainedSpec"]
