"""Entry point of the stage scripts."""

import os

from dllm.program import end_with_parent

if "TORCHELASTIC_RUN_ID" in os.environ:  # before torch, whose import takes seconds
    end_with_parent()

from diffa.train.train import train  # noqa: E402

if __name__ == "__main__":
    train()
