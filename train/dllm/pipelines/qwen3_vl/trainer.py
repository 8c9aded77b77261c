"""Qwen3VLTrainer: MDLMTrainer of a Qwen3VLForMaskedLM, on rows {messages, image} as they are."""

from collections.abc import Sequence

from peft import PeftModel

from dllm.core.model import check_diffusion_settings
from dllm.pipelines.qwen3_vl.dataset import Qwen3VLDataCollator, VisualDataset, as_dataset
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import Qwen3VLForMaskedLM
from dllm.training.arguments import MDLMConfig
from dllm.training.lora import take_adapter
from dllm.training.trainer import MDLMTrainer


class Qwen3VLTrainer(MDLMTrainer):
    """Trains a Qwen3VLForMaskedLM, plain or with an adapter of peft on its language model."""

    def __init__(
        self,
        model: Qwen3VLForMaskedLM | PeftModel,
        args: MDLMConfig,
        train_dataset: VisualDataset | Sequence[dict] | None = None,
        eval_dataset: VisualDataset | Sequence[dict] | None = None,
        data_collator: Qwen3VLDataCollator | None = None,
        **kwargs,
    ):
        """`data_collator` is that of `create_qwen3_vl_collator`, whose processor is saved beside the model. Data sets
        that are rows are read at once, to check them. Raises ValueError for what does not fit.
        """
        if not isinstance(args, MDLMConfig):
            raise ValueError("args must be an MDLMConfig (dllm.training.arguments), which extends TrainingArguments")
        if not isinstance(data_collator, Qwen3VLDataCollator):
            raise ValueError("data_collator must be that of create_qwen3_vl_collator, which knows the processor")
        model, processor = take_adapter(model), data_collator.processor
        check_diffusion_settings(model.diffusion)
        data_collator.set_up(model.diffusion, args)
        settings = (processor, model.diffusion, args.model_max_length, args.process_index == 0)
        sets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        for name, rows in sets.items():
            if rows is not None and not isinstance(rows, VisualDataset):
                sets[name] = as_dataset(name, rows, *settings)
        beside = {"processing_class": processor.tokenizer, "processors": (processor.image_processor,)}
        super().__init__(model=model, args=args, data_collator=data_collator, **sets, **beside, **kwargs)
