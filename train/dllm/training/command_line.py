"""The command line of a training program: dataclasses in one parser, whose mistakes are one line each."""

from argparse import SUPPRESS, Action, Namespace
from dataclasses import MISSING, fields

from transformers import HfArgumentParser, TrainingArguments

from dllm.program import HelpFormatter

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


# Of transformers' options, those that --help lists beside our own.
COMMON = """output_dir learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps
    warmup_steps lr_scheduler_type weight_decay optim bf16 deepspeed gradient_checkpointing train_sampling_strategy
    eval_strategy eval_steps save_steps save_total_limit logging_steps report_to seed""".split()
EPILOG = """The same command again goes on from its last checkpoint. A run that starts from a trained model has its
settings (--attention_pattern, --gen_length ...) where none are given; the defaults here are for any other."""


class ArgumentParser(HfArgumentParser):
    """transformers' parser that raises ValueError, with one line, where argparse ends the process. --help tells our own
    options and the most common ones of transformers, --help_all every one.
    """

    def __init__(self, dataclasses: tuple, description: str | None = None, **defaults):
        """The first of the dataclasses is a `ModelArguments`; `defaults` replace those of the fields."""
        layout = {"usage": "%(prog)s --option value ...", "epilog": EPILOG, "formatter_class": HelpFormatter}
        super().__init__(dataclasses, description=description, **layout)
        quiet = {"nargs": 0, "dest": SUPPRESS, "default": SUPPRESS}
        self.add_argument("--help_all", action=_HelpAll, help="show transformers' other options too", **quiet)
        theirs = {each.name for each in fields(TrainingArguments)}
        self._optionals._group_actions.sort(key=lambda action: action.dest in theirs)
        self.hidden = theirs - set(COMMON)
        self.set_defaults(**defaults)
        for action in self._actions:
            action.required = action.required and action.dest not in defaults

    def parse(self, arguments: list[str] | None = None) -> tuple:
        """The dataclasses of a command line (default: this process's), with the settings of a trained model in place of
        those that are not given. Raises ValueError on an unknown option, and on settings that are not the model's.
        """
        *parsed, rest = self.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
        if rest:
            name = rest[0].split("=")[0]
            instead = INSTEAD.get(name.lstrip("-").replace("-", "_"))
            raise ValueError(f"unknown argument {name}; {instead or '--help lists those that there are'}")
        own = parsed[0].trained_settings()
        if own:
            everything = Namespace(**dict.fromkeys((action.dest for action in self._actions), MISSING))
            values = vars(self.parse_known_args(arguments, everything)[0])
            _go_on(parsed, own, {name for name, value in values.items() if value is not MISSING})
        return tuple(parsed)

    def format_help(self) -> str:
        for action in self._actions:
            action.help = SUPPRESS if action.dest in self.hidden else action.help
        return super().format_help()

    def error(self, message: str):
        raise ValueError(f"{message}; --help lists the arguments")


class _HelpAll(Action):
    def __call__(self, parser, *_):
        parser.hidden = set()
        parser.print_help()
        parser.exit()


def _go_on(parsed: list, own: dict, given: set[str]) -> None:
    """Sets what is not `given` to what the trained model has; ValueError with all that is given and may not differ."""
    conflicts = []
    for each in parsed:
        for name in [field.name for field in fields(each) if field.name in own]:
            value = getattr(each, name)
            if name not in given:
                setattr(each, name, own[name])
            elif value != own[name] and name in parsed[0].fixed:
                conflicts.append(f"--{name} {value} (it has {'its own' if own[name] is None else own[name]})")
    if conflicts:
        path = parsed[0].model_name_or_path
        raise ValueError(f"{path} was trained with other settings: {', '.join(conflicts)}; leave these out")
