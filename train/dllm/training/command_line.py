"""The command line of a training program: dataclasses in one parser, whose mistakes are one line each."""

from argparse import RawDescriptionHelpFormatter

from transformers import HfArgumentParser

# Options of older versions of transformers, or of the published dLLM, and what takes their place.
INSTEAD = {
    "warmup_ratio": "--warmup_steps takes a share of all steps, below 1, as well as a number",
    "group_by_length": "--train_sampling_strategy group_by_length, which is the default",
    "overwrite_output_dir": "leave it out; the same command goes on from its last checkpoint, so name another folder",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "evaluation_strategy": "--eval_strategy",
    "max_length": "--max_seq_length",
    "load_in_4bit": "leave it out; weights are trained as they are read, --lora True takes less memory",
    "attn_implementation": "leave it out; the attention kernel is chosen by the mask",
}


class ArgumentParser(HfArgumentParser):
    """transformers' parser that raises ValueError, with one line, where argparse ends the process."""

    def __init__(self, dataclasses: tuple, description: str | None = None, **defaults):
        """`defaults` replace those of the dataclasses' fields."""
        super().__init__(dataclasses, description=description, formatter_class=RawDescriptionHelpFormatter)
        self.set_defaults(**defaults)
        for action in self._actions:
            action.required = action.required and action.dest not in defaults

    def parse(self, arguments: list[str] | None = None) -> tuple:
        """The dataclasses of a command line (default: this process's). Raises ValueError on an unknown option."""
        *parsed, rest = self.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
        if rest:
            name = rest[0].split("=")[0]
            instead = INSTEAD.get(name.lstrip("-").replace("-", "_"))
            raise ValueError(f"unknown argument {name}; {instead or '--help lists those that there are'}")
        return tuple(parsed)

    def error(self, message: str):
        raise ValueError(f"{message}; --help lists the arguments")
