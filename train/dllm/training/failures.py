"""How a run ends that cannot go on: one line from one of its processes, or a checkpoint and a line on a signal."""

import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from dllm.program import leave_error

LAUNCHER = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None  # torchrun
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ERRORS = "train: error"  # key in its store: how many processes wanted to tell


def is_lost_process(error: Exception) -> bool:
    """Whether an error says that another process of the run is gone, be it one that loads data (gloo and DataLoader
    have no type of their own for it).
    """
    told = isinstance(error, RuntimeError) and ("gloo" in str(error) or str(error).startswith("DataLoader worker"))
    return told or isinstance(error, dist.DistError)


def launcher_is_gone() -> bool:
    """Whether torchrun was killed, which leaves its processes to themselves."""
    return LAUNCHER not in (None, os.getppid())


def print_error_once(message: str, below_bar: bool) -> None:
    """Prints the line `train: error: message`, in the first process of the run that has something to tell."""
    if _is_first():
        line = f"train: error: {message}"
        leave_error(line)
        print("\n" * below_bar + line, file=sys.stderr, flush=True)


def _is_first() -> bool:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    if launcher_is_gone():  # and its store with it
        return os.environ["RANK"] == "0"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"{ERRORS} {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
    except dist.DistError:  # the process that holds the store is the lost one
        return True


class StopSignal(TrainerCallback):
    """Ends the training with a checkpoint at the next logged step once any process has had one of SIGNALS.

    SIGTERM is what SLURM sends before it kills. The processes agree when they log, where they wait for each other
    anyway; `stopped` says in all of them whether that is why training ended.
    """

    def __init__(self):
        self.signalled = self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs):
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # it is under nohup
        self.before = {number: signal.signal(number, self._receive) for number in heard}

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_step_end(self, args, state, control, **kwargs):
        """A step that is saved is logged: the mean over the steps since would else lack some after a resume."""
        control.should_log |= control.should_save or control.should_evaluate

    on_epoch_end = on_step_end

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" not in logs:
            return
        if launcher_is_gone():  # the next start may be on its way, in the same folder
            raise dist.DistError("torchrun is gone")
        signalled = torch.tensor(self.signalled, dtype=torch.int32, device=args.device)
        if dist.is_initialized():
            dist.all_reduce(signalled, op=dist.ReduceOp.MAX)
        self.stopped = bool(signalled) and state.global_step < state.max_steps
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def _receive(self, *_) -> None:
        self.signalled = True
