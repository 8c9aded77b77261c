"""Versions, the device, its two ceilings, and whether everything can be imported."""

import importlib
import importlib.metadata
import os
import pkgutil
import platform

import torch

from benchmarks.gpu.record import begin
from benchmarks.measure import clock

PACKAGES = (
    "torch triton transformers accelerate peft safetensors tokenizers huggingface_hub deepspeed numpy timm".split()
)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def seconds_of(call, repeats: int = 10) -> float:
    call()
    begun = clock()
    for _ in range(repeats):
        call()
    return (clock() - begun) / repeats


def main() -> None:
    record, device = begin(__doc__)
    with record.check("versions") as found:
        found |= {"python": platform.python_version(), "cuda": torch.version.cuda, "cores": os.cpu_count()}
        found |= {package: version(package) for package in PACKAGES}
    if device == "cuda":
        with record.check("device") as found:
            properties = torch.cuda.get_device_properties(0)
            found |= {"name": properties.name, "memory_gb": properties.total_memory / 1e9}
            found |= {"capability": list(torch.cuda.get_device_capability()), "bf16": torch.cuda.is_bf16_supported()}
    with record.check("ceilings") as found:
        n = 8192 if device == "cuda" else 256
        a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
        found["matmul_tflops"] = 2 * n**3 / seconds_of(lambda: a @ b) / 1e12
        source = torch.randn(n, 8 * n, device=device)
        target = torch.empty_like(source)
        found["copy_tb_s"] = 2 * source.nbytes / seconds_of(lambda: target.copy_(source)) / 1e12
        small = torch.zeros(1, device=device)
        found["launch_us"] = seconds_of(lambda: small.add_(1), 1000) * 1e6
    for package in ("dllm", "llava"):
        with record.check(f"imports of {package}") as found:
            modules = [m.name for m in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")]
            found["modules"] = len(modules)
            for name in modules:
                try:
                    importlib.import_module(name)
                except Exception as error:
                    found[name] = f"{type(error).__name__}: {str(error)[:200]}"


if __name__ == "__main__":
    main()
