"""LLaVATrainer: a learning rate for each part, and checkpoints that count only once they are complete."""

from pathlib import Path

from torch import nn
from transformers import SiglipImageProcessorPil

from dllm.core.trainer import MDLMTrainer
from llava.train.args import PARTS

COMPLETE = "complete"  # marker file of a checkpoint that was written to its end


class LLaVATrainer(MDLMTrainer):
    """MDLMTrainer of a LlavaQwen3ModelLM; every folder it saves holds the image processor too."""

    def __init__(self, *args, image_processor: SiglipImageProcessorPil, **kwargs):
        super().__init__(*args, **kwargs)
        self.image_processor = image_processor

    def create_optimizer(self, model=None):
        """One optimizer whose groups have the learning rate of their part; norms and biases do not decay."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer(self._parameter_groups(model), **kwargs)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict]:
        args = self.args
        rates = {
            PARTS["mm_vision_tower"]: args.mm_vision_tower_lr,
            PARTS["mm_vision_resampler"]: args.mm_projector_lr,
            PARTS["mm_mlp_adapter"]: args.mm_projector_lr,
            PARTS["mm_language_model"]: None,
        }
        decaying = set(self.get_decay_parameter_names(model))
        groups = []
        for prefix, rate in rates.items():
            for decay in (True, False):
                parameters = [
                    parameter
                    for name, parameter in model.named_parameters()
                    if parameter.requires_grad and name.startswith(prefix) and (name in decaying) == decay
                ]
                if parameters:
                    rate = args.learning_rate if rate is None else rate
                    groups.append({"params": parameters, "lr": rate, "weight_decay": args.weight_decay * decay})
        return groups

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        self.image_processor.save_pretrained(output_dir or self.args.output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every rank has written its share
        if self.args.should_save:
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


def last_complete_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint-N folder that was written to its end, or None."""
    complete = [marker.parent for marker in Path(output_dir).glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[-1]))) if complete else None
