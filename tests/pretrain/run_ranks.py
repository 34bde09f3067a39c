"""One process of a distributed run, for test_pretrain_distributed: one run after the other.

RANK=0 WORLD_SIZE=2 ... python run_ranks.py DATASET JOBS, where JOBS is a JSON list of {run, port, settings,
resume, stop: process 1 is told to stop in this step, dataset: another one}. Parts of SCIO have 16 tiles.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from fusar_klip.config import validate_settings
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState
from fusar_klip.scio import dataset_pass, refine_texts

STEP = KlipTrainState.step


def main() -> None:
    torch.set_num_threads(1)
    dataset_pass._TILES_PER_PART = 16
    for job in json.loads(sys.argv[2]):
        # A port that has just been left may not be free yet.
        os.environ["MASTER_PORT"] = str(job["port"])
        stop = job.get("stop")

        def step(
            self: KlipTrainState, parts: Any, number: int, per_epoch: int, stop: int | None = stop
        ) -> Any:
            if number == stop and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return STEP(self, parts, number, per_epoch)

        KlipTrainState.step = step  # type: ignore[method-assign]
        settings = validate_settings(PretrainSettings, job["settings"])
        try:
            dataset = Path(job.get("dataset", sys.argv[1]))
            pretrain(
                dataset,
                Path(job["run"]),
                settings,
                resume=job.get("resume", False),
                refine_texts=refine_texts,
            )
        except KeyboardInterrupt:
            print("stopped")
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
        except SystemExit:
            print("exit")


main()
