"""DiffaTrainer: MDLMTrainer of a model whose frozen parts are in no checkpoint."""

from functools import partial

from dllm.training.trainer import MDLMTrainer


class DiffaTrainer(MDLMTrainer):
    """MDLMTrainer of a DiffaModelLM. A checkpoint goes on with the same frozen parts alone."""

    def run_settings(self) -> dict:
        frozen = {part: named["sha256"] for part, named in self.model.config.frozen.items()}
        return super().run_settings() | {f"the {part} of sha256": frozen.get(part) for part in self.model.parts}

    def save_result(self, folder: str) -> tuple[str, str]:
        what, file = super().save_result(folder)
        return ("adapter" if "language_model" in self.model.config.frozen else what), file

    def _save(self, output_dir=None, state_dict=None) -> None:
        """ZeRO-3 gathers all weights, whatever the model's state dict leaves out."""
        prefixes = tuple(self.model.parts[part] for part in self.model.config.frozen)
        if state_dict is not None:
            state_dict = {name: weight for name, weight in state_dict.items() if not name.startswith(prefixes)}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """ZeRO-2 and ZeRO-3 save frozen weights too, unless told otherwise."""
        prefixes = tuple(self.model.parts[part] for part in self.model.config.frozen)
        held = [weight for name, weight in self.model.named_parameters() if not name.startswith(prefixes)]
        if self.is_deepspeed_enabled and all(weight.requires_grad for weight in held):
            engine = self.model_wrapped
            engine.save_checkpoint = partial(type(engine).save_checkpoint, engine, exclude_frozen_parameters=True)
        super()._save_optimizer_and_scheduler(output_dir)
