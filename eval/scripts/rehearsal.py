"""Scores two made-up studies by lmms_eval's model without weights: what is missing is known in seconds, not at the end.

Importing is not enough: lmms_eval imports some of what it needs only when it evaluates. The exit status is not 0 if
anything on the way to the scores fails, and the last line of stderr then says what.

    python eval/scripts/rehearsal.py        # or eval/scripts/evaluate.sh --check
"""

import json
import os
import tempfile
from pathlib import Path

from PIL import Image

from dllm.program import argument_parser
from report_scores.metrics.meteor import meteor_statistics


def write_studies(folder: Path) -> None:
    """Writes a training and a test set of two studies, all of one image."""
    Image.linear_gradient("L").resize((32, 32)).save(folder / "image.png")
    for split in ("train", "test"):
        turns = [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": "Made up."}]
        records = [{"id": f"{split}{n}", "image": "image.png", "conversations": turns} for n in range(2)]
        (folder / f"{split}_llava_llada.json").write_text(json.dumps(records))


def main() -> None:
    argument_parser(__doc__).parse_args()
    meteor_statistics(["clear"], ["clear"])  # first, for it takes a second and its message is its own
    import lmms_eval.__main__  # noqa: F401, what `python -m lmms_eval` starts with
    import lmms_eval_overlay
    from lmms_eval.evaluator import simple_evaluate

    import report_scores.page
    import report_scores.results  # noqa: F401

    lmms_eval_overlay.register()
    import lmms_eval.models.simple.llava_oneversion_qwen  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        write_studies(Path(folder))
        os.environ |= {"MIMIC_CXR_DATA": folder, "MIMIC_CXR_IMAGES": folder}
        found = simple_evaluate("dummy", tasks=["mimic_cxr"], batch_size=1, device="cpu", bootstrap_iters=0)
    if not any(name.startswith("METEOR") for name in found["results"]["mimic_cxr"]):
        raise ValueError(f"lmms_eval gave no METEOR, only {', '.join(found['results']['mimic_cxr'])}")


if __name__ == "__main__":
    main()
