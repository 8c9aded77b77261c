"""LLaVATrainer: MDLMTrainer whose stage 1 leaves an adapter."""

from dllm.training.trainer import MDLMTrainer
from llava.model.builder import ADAPTER_FILE, ADAPTER_PARTS, save_adapter


class LLaVATrainer(MDLMTrainer):
    """MDLMTrainer of a LlavaQwen3ModelLM."""

    def save_result(self, folder: str) -> tuple[str, str]:
        """Resampler and projector alone, if nothing else was trained; else the whole model."""
        trained = [name for name, weight in self.model.named_parameters() if weight.requires_grad]
        if not all(name.startswith(ADAPTER_PARTS) for name in trained):
            return super().save_result(folder)
        state = self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.should_save:
            save_adapter(state, self.model.config, folder)
            self.model.config.save_pretrained(folder)
        return "adapter", ADAPTER_FILE
