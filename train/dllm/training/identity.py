"""What the losses of a run depend on, so that no run goes on from the checkpoint of another one."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

from dllm.data.files import sha256, weights_sha256

# Arguments that change no loss of training, by the prefix of their name. All others belong to the identity.
FREE = (
    "output_dir", "dry_run", "allow_changed", "resume_from_checkpoint",
    "logging_", "log_", "report_to", "run_name", "project", "trackio_", "disable_tqdm", "debug", "skip_memory_metrics",
    "save_", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "enable_jit_checkpoint",
    "hub_", "push_to_hub",
    "eval_", "per_device_eval_", "bf16_full_eval", "fp16_full_eval", "prediction_loss_only", "batch_eval_metrics",
    "include_", "do_",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataloader_in_order",
    "ddp_", "local_rank", "use_cpu", "deepspeed", "fsdp", "fsdp_config", "accelerator_config", "parallelism_config",
    "torch_compile", "torch_empty_cache_steps", "gradient_checkpointing", "activation_checkpointing", "use_cache",
    "restore_callback_states_from_checkpoint",
    # together: samples a step
    "per_device_train_batch_size", "gradient_accumulation_steps",
)  # fmt: skip


class Identity:
    """The arguments of a run, as dataclasses, and what the files that they name hold.

    Files and model folders are hashed beside the run, from the moment that this is made; `values` waits for them.
    """

    def __init__(self, *arguments):
        self.arguments = arguments
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="identity")
        self._values: dict[str, object] = {}
        for each in arguments:
            contents = each.contents() if hasattr(each, "contents") else {}
            for field in fields(each):
                if field.init and not field.name.startswith(FREE):
                    self._values[f"--{field.name}"] = self._value(getattr(each, field.name))
                if field.name in contents:
                    self._values[f"data of --{field.name}"] = self._pool.submit(_joint, contents[field.name])
        self._pool.shutdown(wait=False)

    def values(self) -> dict[str, object]:
        """JSON values by argument: of a file the sha256 of its bytes, of a model folder that of its weights, of any
        other folder, whose files may be many, only that it is one.
        """
        return {name: value.result() if isinstance(value, Future) else value for name, value in self._values.items()}

    def _value(self, value: object):
        if isinstance(value, str) and value and Path(value).exists():
            return self._pool.submit(_content, Path(value))
        return json.loads(json.dumps(value, default=lambda other: getattr(other, "value", None) or str(other)))


def _content(path: Path) -> str:
    if path.is_file():
        return f"sha256 {sha256(path)}"
    return f"sha256 {weights_sha256(path)}" if any(path.glob("*.safetensors")) else "a folder"


def _joint(paths: list[Path]) -> str:
    """One hash of files by their bytes, and of folders by the names and sizes of their files."""
    parts = []
    for path in paths:
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        parts += [f"{file.relative_to(path)} {file.stat().st_size}" for file in files] or [sha256(path)]
    return f"sha256 {hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def differences(old: dict, new: dict, allowed: list[str]) -> list[str]:
    """What two runs that know the same settings have different, "NAME OLD, not NEW" each, but for `allowed` names."""
    names = [name for name in old if name in new and name.rpartition("--")[2] not in allowed]
    return [f"{name} {old[name]}, not {new[name]}" for name in names if old[name] != new[name]]
