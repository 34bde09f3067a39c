"""The single-modal baselines of the paper's table 4: MAE and MoCo v3, on the same tiles and in the same loop.

They train the image tower alone, and need no texts. `course` brings them to `fusar_klip.pretrain.train`.

    fusar-klip pretrain DATASET --out RUN --config configs/pretrain_mae.toml
"""
