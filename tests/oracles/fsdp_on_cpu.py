"""train_mem.py where accelerate takes CPUs for GPUs, so that PyTorch's FSDP shards over them.

On CPUs accelerate never asks for FSDP (`AcceleratorState` reads ACCELERATE_USE_FSDP only for accelerators) and would
train with plain DDP; PyTorch itself shards over gloo.
"""

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from llava.train.train import train

begin = PartialState.__init__


def begin_as_accelerator(self, *args, **kwargs) -> None:
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = begin_as_accelerator
    train()
