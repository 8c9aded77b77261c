"""A few steps of every decoder family, in as many processes as the launcher starts, one family after another.

torchrun --nproc_per_node 2 tests/oracles/family_runs.py OUT.json [deepspeed.json]
accelerate launch --config_file scripts/accelerate_configs/fsdp.yaml ... tests/oracles/family_runs.py OUT.json
"""

import json
import os
import sys
import tempfile

import torch

from dllm.training.run import prepare_deepspeed_on_cpu
from oracles.families import VARIANTS, family_model
from oracles.fsdp_on_cpu import count_as_accelerators
from oracles.text_runs import logged, make_trainer

BATCH = 4  # of all processes together


def steps(variant: str, processes: int = 1, **arguments) -> dict:
    """Losses and norms of gradients of three steps, each of which depends on the weights that the one before left; and
    how the weights are split.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = {"max_steps": 3, "optim": "adamw_torch", "learning_rate": 3e-3, "eval_strategy": "no"}
        trainer = make_trainer(
            folder,
            model=family_model(variant, dtype=torch.float32),
            per_device_train_batch_size=BATCH // processes,
            **settings | arguments,
        )
        trainer.train()
        zero = trainer.accelerator.state.deepspeed_plugin
        split = f"ZeRO-{zero.zero_stage}" if zero else "FSDP2" if trainer.accelerator.is_fsdp2 else "not at all"
        return {name: logged(trainer, name) for name in ("loss", "grad_norm")} | {"split": split}


def main() -> None:
    out, deepspeed = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    if deepspeed:
        os.environ["DS_ACCELERATOR"] = "cpu"
        prepare_deepspeed_on_cpu()
    if os.environ.get("ACCELERATE_USE_FSDP"):
        count_as_accelerators()
    processes = int(os.environ["WORLD_SIZE"])
    found = {variant: steps(variant, processes, deepspeed=deepspeed) for variant in VARIANTS}
    if int(os.environ["RANK"]) == 0:
        with open(out, "w") as file:
            json.dump(found, file)
    torch.distributed.barrier()
    os._exit(0)  # a gloo thread may abort the interpreter while it shuts down


if __name__ == "__main__":
    main()
