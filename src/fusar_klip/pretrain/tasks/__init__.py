"""The pretraining tasks: the paper's (`klip`), and the single-modal baselines of table 4 (`mae`, `mocov3`).

`training_task` states what a task provides to the loop in `fusar_klip.pretrain.train`; `train.TASKS` lists
the tasks. MAE and MoCo v3 train the image tower alone, on tiles without texts (`image_only`).
"""
