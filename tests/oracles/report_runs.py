"""What a run of lmms_eval leaves behind, without a model: for the tests of whatever reads it."""

import json

import numpy as np
from PIL import Image

from report_scores.data import load_documents
from report_scores.lmms_eval_output import PREFIXES, TASK_METRICS
from report_scores.metrics.bleu import bleu_statistics
from report_scores.metrics.rouge import rouge_l
from report_scores.scorer import METEOR


def write_noise_images(folder, train: int, test_from: int) -> None:
    """Make every training image another noise, and test image i almost that of training image `test_from` + i."""
    generator = np.random.default_rng(0)
    for index in range(train):
        noise = generator.integers(0, 256, size=(40, 48), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / "train" / f"study {index}.png")
        if (test := folder / "images" / "test" / f"study {index - test_from}.png").exists():
            Image.fromarray(noise // 2 + 20).save(test)


def write_run(folder, texts: dict[str, list[str]], name: str = "20260101_000000", **changed):
    """Write what lmms_eval writes for the first studies of the environment's data set, and return its results file.

    `texts` has the reports for "model" and "shuffled_images"; METEOR's statistics are made up. A score in `changed`
    that is None is left out.
    """
    documents, provenance = load_documents()
    pairs = zip(texts["model"], texts["shuffled_images"], strict=True)
    written = [(prefix, text) for pair in pairs for prefix, text in zip(("", "shuffled_images_"), pair, strict=True)]
    samples = []
    for index, (prefix, text) in enumerate(written):
        document = documents[index]
        sample = {"doc_id": index, "target": document["report"], "filtered_resps": text}
        sample |= _statistics(prefix, text, document["report"])
        if not prefix:
            sample |= _statistics("constant_report_", document["constant_report"], document["report"])
        samples.append(sample)
    scores = {f"{prefix}{metric}": 0.25 for prefix in PREFIXES.values() for metric in TASK_METRICS} | changed
    results = {
        "results": {"mimic_cxr": {f"{key},none": value for key, value in scores.items() if value is not None}},
        "configs": {"mimic_cxr": {"metadata": {"version": 2.0, "normalisation": "lower case"} | provenance}},
        "config": {"gen_kwargs": ""},
        "model_name": f"exp/{folder.name}",
    }
    file = folder / "exp__model" / f"{name}_results.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results))
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in reversed(samples))
    file.with_name(f"{name}_samples_mimic_cxr.jsonl").write_text(lines, encoding="utf-8")
    return file


def _statistics(prefix: str, text: str, reference: str) -> dict:
    bleu = bleu_statistics([text], [reference])[0].tolist()
    meteor = [1.0 + len(text)] * METEOR.columns
    values = (bleu, bleu, meteor, rouge_l(text, reference))
    return {f"{prefix}{metric}": value for metric, value in zip(TASK_METRICS, values, strict=True)}
