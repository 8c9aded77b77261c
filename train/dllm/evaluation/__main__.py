"""lm-evaluation-harness with the model `dllm` (`dllm.evaluation.harness`).

    pip install -e "train[lm_eval]"
    lm_eval --model dllm --model_args pretrained=DIR --tasks ...
    accelerate launch -m dllm.evaluation --model dllm ...              # the requests divided among several processes

The package looks for no models outside itself, so this distribution installs its command `lm_eval`, which is the
package's own once the model is registered.
"""

from dllm.program import run_program


def main() -> None:
    """The command line of lm_eval, with our model registered."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        raise ValueError(f'{error}: pip install -e "train[lm_eval]"') from error
    import dllm.evaluation.harness  # noqa: F401  registers the model

    cli_evaluate()


def command() -> None:
    """The command `lm_eval`."""
    run_program(main)


if __name__ == "__main__":
    command()
