"""The stage scripts and the dataclasses of training agree on the options of a run (docs/settings.md)."""

import json
import re
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from dllm.training import arguments
from dllm.training.command_line import ArgumentParser
from llava.train.args import DataArguments, ModelArguments, TrainingArguments

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "train/scripts"
STAGE = "".join(re.sub(r"(?m)^#.*", "", (SCRIPTS / name).read_text()) for name in ("launch.sh", "stage.sh"))
STAGES = {name: (SCRIPTS / f"llada_v_{name}.sh").read_text() for name in ("pretrain", "finetune")}
# What a full run wants otherwise than the program alone, transformers' own defaults among it.
MEANT_TO_DIFFER = {
    "dataloader_num_workers",
    "eval_steps",
    "gradient_accumulation_steps",
    "learning_rate",
    "logging_steps",
    "lr_scheduler_type",
    "mm_vision_tower_lr",
    "num_train_epochs",
    "output_dir",
    "per_device_train_batch_size",
    "report_to",
    "save_steps",
    "save_total_limit",
    "warmup_steps",
}


@pytest.fixture(scope="module")
def options():
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    return {text.lstrip("-"): action for action in parser._actions for text in action.option_strings}


def flags(text: str) -> dict[str, str | None]:
    """Flags that a script passes to the program, with the default of their variable, None where it has none."""
    passed = dict.fromkeys(re.findall(r'--(\w+) "', text[re.search(r"launch\(\)|run_stage", text).start() :]))
    return passed | dict(re.findall(r'--(\w+) "\$\{\w+:-([^}]*)\}"', text))


def different(options: dict, found: dict) -> set[str]:
    """Options whose default in the scripts is another than the program's; off is off, however it is said."""

    def differs(name: str, value: str) -> bool:
        return str(options[name].type(value) or None) != str(options[name].default or None)

    return {name for name, value in found.items() if value and differs(name, value)}


def test_every_flag_of_the_scripts_is_an_option_of_the_program(options):
    known = {*options, "nnodes", "node_rank", "master_addr", "master_port", "nproc_per_node"}  # torchrun's
    for text in (STAGE, *STAGES.values()):
        assert set(flags(text)) <= known
    assert len(flags(STAGE)) > 25


@pytest.mark.parametrize("stage", STAGES)
def test_defaults_differ_only_where_they_are_meant_to(options, stage):
    found = different(options, flags(STAGE) | flags(STAGES[stage]))
    assert found - MEANT_TO_DIFFER == {"mm_tunable_parts"}  # it has no default in the program


def test_each_difference_is_one(options):
    found = [different(options, flags(STAGE) | flags(text)) for text in STAGES.values()]
    assert set.union(*found) >= MEANT_TO_DIFFER


def test_the_page_names_the_differences():
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    paragraph = page[page.index("Meant to differ") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) == MEANT_TO_DIFFER | {"mm_tunable_parts"}


def test_the_page_names_the_variables_that_are_not_their_flag():
    texts = (STAGE[STAGE.index("launch()") :], *STAGES.values())
    renamed = {(flag, var) for text in texts for flag, var in re.findall(r'--(\w+) "\$\{?(\w+)', text)}
    renamed = {(flag, var) for flag, var in renamed if flag.upper() != var and flag != "nproc_per_node"}  # torchrun's
    page = " ".join((ROOT / "docs/settings.md").read_text(encoding="utf-8").split())
    assert renamed == {(flag, var) for var, flag in re.findall(r"`([A-Z_]+)` \(`--(\w+)`\)", page)}


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_from_a_trained_text_model_takes_over_what_is_not_given(tmp_path, nested):
    own = {"attention_pattern": "prefix", "block_length": 8, "gen_length": 64}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": own} if nested else own))
    parser = ArgumentParser((arguments.ModelArguments, arguments.MDLMConfig))
    line = ["--model_name_or_path", str(tmp_path), "--gen_length", "32", "--output_dir", str(tmp_path / "out")]
    plain, _ = parser.parse(line)
    assert plain.diffusion() == {"attention_pattern": "block", "block_length": 32, "gen_length": 32}
    (tmp_path / "trainer_state.json").touch()  # a run of ours wrote it
    trained, _ = parser.parse(line)
    assert trained.diffusion() == own | {"gen_length": 32}
