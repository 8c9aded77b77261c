"""A training program where accelerate takes CPUs for GPUs, so that PyTorch's FSDP shards over them: the one that the
environment variable PROGRAM names, or else train_mem.py.

On CPUs accelerate never asks for FSDP (`AcceleratorState` reads ACCELERATE_USE_FSDP only for accelerators) and would
train with plain DDP; PyTorch itself shards over gloo.
"""

import os
import runpy

from accelerate.state import PartialState
from accelerate.utils import DistributedType

begin = PartialState.__init__


def begin_as_accelerator(self, *args, **kwargs) -> None:
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def count_as_accelerators() -> None:
    """CPUs are GPUs to accelerate from now on."""
    PartialState.__init__ = begin_as_accelerator


if __name__ == "__main__":
    count_as_accelerators()
    runpy.run_path(os.environ.get("PROGRAM", "train/llava/train/train_mem.py"), run_name="__main__")
