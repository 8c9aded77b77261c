"""scripts/train.slurm.sh and the stage scripts up to the launcher they call; the runs are in test_processes.py."""

import json
from types import SimpleNamespace

import pytest
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin

from llava.train import train as program
from llava.train.llava_trainer import LLaVATrainer
from oracles import launchers
from oracles.launchers import recorder, stage
from oracles.tiny import CHECKOUT, build_trainer

CONFIGS = sorted(path.stem for path in (CHECKOUT / "scripts/accelerate_configs").glob("*.yaml"))


def options(lines):
    """The launcher's options before the program, and the program with its arguments."""
    end = lines.index(launchers.TRAIN_MEM)
    return dict(zip(lines[1:end:2], lines[2:end:2], strict=True)), lines[end:]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"unknown --accelerate_config ''; known: {', '.join(CONFIGS)}"),
        (["--accelerate_config"], f"unknown --accelerate_config ''; known: {', '.join(CONFIGS)}"),
        (["--accelerate_config", "x", "--seed", "1"], "unknown --accelerate_config 'x'; known: ddp, deepspeed, fsdp"),
        (["--accelerate_config", "ddp"], "--script_path '' is not a file; give a program"),
        (["--script_path", "none.py", "--accelerate_config", "ddp"], "--script_path 'none.py' is not a file"),
    ],
)
def test_a_mistake_is_one_line(arguments, said):
    result = launchers.run(arguments)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"train.slurm: error: {said}")


@pytest.mark.parametrize("config", CONFIGS)
def test_without_slurm_one_node_runs_the_program_with_its_own_arguments(tmp_path, config):
    programs = recorder(tmp_path / "bin", "accelerate")
    result = launchers.start(config, ["--output_dir", "two words"], programs=programs, GPU_NUM="3", MASTER_PORT="5")
    assert result.returncode == 0, result.stderr
    lines = (programs / "0.txt").read_text().splitlines()
    given, rest = options(lines)
    assert lines[0] == "launch" and rest == [launchers.TRAIN_MEM, "--output_dir", "two words"]
    assert given == {
        "--machine_rank": "0",
        "--config_file": f"scripts/accelerate_configs/{config}.yaml",
        "--num_machines": "1",
        "--num_processes": "3",
        "--main_process_ip": "127.0.0.1",
        "--main_process_port": "5",
    }
    assert result.stdout == f"accelerate {' '.join(lines)}\n"


def test_in_a_slurm_job_every_node_has_its_rank_and_the_first_one_the_address(tmp_path):
    job = launchers.slurm(tmp_path / "bin") | {"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "16"}
    recorder(tmp_path / "bin", "accelerate")
    result = launchers.start("ddp", ["--seed", "1"], **job)
    assert result.returncode == 0, result.stderr
    for rank in ("0", "1"):
        given, rest = options((tmp_path / "bin" / f"{rank}.txt").read_text().splitlines())
        assert rest == [launchers.TRAIN_MEM, "--seed", "1"]
        assert given == {
            "--machine_rank": rank,
            "--config_file": "scripts/accelerate_configs/ddp.yaml",
            "--num_machines": "2",
            "--num_processes": "16",
            "--main_process_ip": "127.0.0.1",
            "--main_process_port": "24711",
        }
    asked = (tmp_path / "bin" / "srun.log").read_text()
    assert asked.startswith("srun --nodes 2 --ntasks 2 --ntasks-per-node 1 --kill-on-bad-exit=1 --cpus-per-task 16 ")
    assert asked.strip() in result.stdout


def test_a_job_that_was_not_submitted_in_the_root_is_told(tmp_path):
    job = launchers.slurm(tmp_path / "bin") | {"SLURM_SUBMIT_DIR": str(tmp_path)}
    result = launchers.start("ddp", [], **job)
    said = f"{tmp_path} has no scripts/accelerate_configs; start sbatch in the root of the repository"
    assert (result.returncode, result.stderr) == (1, f"train.slurm: error: {said}\n")


def test_the_error_of_the_program_comes_last(tmp_path):
    programs = recorder(tmp_path, "accelerate", "echo 'train: error: no data' >&2\necho 'Traceback' >&2\nexit 3\n")
    result = launchers.start("ddp", [], programs=programs, GPU_NUM="1")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "train: error: no data"


def test_fsdp_is_refused_where_accelerate_would_not_shard(world, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP needs GPUs: on CPUs accelerate would train with plain DDP"):
        build_trainer(world.arguments(tmp_path / "out"))


def check_sharding(**state):
    """LLaVATrainer's check, with accelerate's own plugin objects."""
    trainer = SimpleNamespace(is_fsdp_enabled="fsdp_plugin" in state, is_deepspeed_enabled="deepspeed_plugin" in state)
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(**state))
    LLaVATrainer._check_sharding(trainer)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fsdp_version": 1}, "fsdp_version 1 would drop the learning rates of the parts"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "FSDP would save no whole model; set fsdp_state_dict_type"),
    ],
)
def test_fsdp_settings_that_lose_rates_or_weights_are_refused(monkeypatch, settings, said):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    good = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}
    check_sharding(fsdp_plugin=FullyShardedDataParallelPlugin(**good))
    with pytest.raises(ValueError, match=said):
        check_sharding(fsdp_plugin=FullyShardedDataParallelPlugin(**good | settings))


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3pp"])
def test_deepspeed_settings_that_would_save_no_whole_model_are_refused(name):
    settings = json.loads((CHECKOUT / f"train/scripts/{name}.json").read_text())
    check_sharding(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=settings))
    settings["zero_optimization"].pop("stage3_gather_16bit_weights_on_model_save", None)
    plugin = DeepSpeedPlugin(hf_ds_config=settings)
    if settings["zero_optimization"]["stage"] < 3:
        check_sharding(deepspeed_plugin=plugin)
    else:
        with pytest.raises(ValueError, match="DeepSpeed would save no whole model; set stage3_gather_16bit"):
            check_sharding(deepspeed_plugin=plugin)


def test_one_node_finds_a_port_of_its_own_and_several_nodes_are_told_theirs(tmp_path):
    several = {"RANK": "1", "MASTER_ADDR": "head", "MASTER_PORT": "5"}
    assert stage("llada_v_pretrain.sh", tmp_path / "1", 1, **several)[0] == "--standalone --nproc_per_node 2".split()
    told = "--nnodes 2 --node_rank 1 --master_addr head --master_port 5 --nproc_per_node 2"
    assert stage("llada_v_pretrain.sh", tmp_path / "2", 2, **several)[0] == told.split()


@pytest.mark.parametrize("script", ["llada_v_pretrain.sh", "llada_v_finetune.sh"])
def test_the_program_knows_what_a_stage_script_says(world, tmp_path, monkeypatch, script):
    folders = {"DATA_PATH": str(world.train), "IMAGE_FOLDER": str(world.images), "OUTPUT_DIR": str(tmp_path / "out")}
    _, arguments = stage(script, tmp_path / "bin", **folders)
    monkeypatch.setattr("sys.argv", ["train_mem.py", *arguments])
    model, data, training = program.parse()
    assert (data.data_path, training.output_dir, training.deepspeed) == (str(world.train), folders["OUTPUT_DIR"], None)
    assert not model.lora_enable


def test_lora_is_a_setting_of_stage_2(world, tmp_path, monkeypatch):
    folders = {"DATA_PATH": str(world.train), "IMAGE_FOLDER": str(world.images)}
    lora = {"LORA_ENABLE": "True", "LORA_R": "8", "LORA_ALPHA": "32", "LORA_DROPOUT": "0.1"}
    monkeypatch.setattr("sys.argv", ["x", *stage("llada_v_finetune.sh", tmp_path / "bin", **folders, **lora)[1]])
    model, _, _ = program.parse()
    assert (model.lora_enable, model.lora_r, model.lora_alpha, model.lora_dropout) == (True, 8, 32, 0.1)
