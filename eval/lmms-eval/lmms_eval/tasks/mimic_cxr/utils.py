"""The hooks of the task mimic_cxr; documents, statistics and scores come from report_scores."""

import os

from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableTask
from loguru import logger

from dllm.program import boundary
from llava.data.images import load_image
from report_scores.data import check_test_set, image_folder, load_documents
from report_scores.metrics.bleu import bleu_statistics
from report_scores.metrics.meteor import meteor_statistics, require_java, require_meteor
from report_scores.metrics.rouge import rouge_l
from report_scores.scorer import corpus_bleu_1, corpus_bleu_4, corpus_meteor  # noqa: F401, the YAML names them


class MimicCxr(ConfigurableTask):
    """The task with its documents read straight from the LLaVA file, and everything checked before any generation.

    The inherited `download` knows no environment variables and tries a missing file five times.
    """

    def __init__(self, config: dict) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    @boundary()
    def download(self, dataset_kwargs: dict | None = None) -> None:
        require_java()
        require_meteor()
        if int(os.environ.get("RANK", 0)) == 0:  # the other processes wait for this one here
            check_test_set()
        documents, provenance = load_documents()
        if documents[0]["constant_report"] is None:
            logger.warning("No constant_report scores: {}", provenance["constant_report"])
        self.config.metadata = {**self.config.metadata, **provenance}
        self.dataset = DatasetDict({self.config.test_split: Dataset.from_list(documents)})
        self.dataset_no_image = self.dataset


def doc_to_visual(doc: dict) -> list:
    """Load the images of a document."""
    return [load_image(image_folder() / name) for name in doc["images"]]


@boundary()
def process_results(doc: dict, results: list[str]) -> dict:
    """Return the statistics of one document under the names of its half of the test set; the aggregations sum them."""
    if doc["shuffled"]:
        return _scores("shuffled_images_", results[0], doc["report"])
    baseline = _scores("constant_report_", doc["constant_report"], doc["report"]) if doc["constant_report"] else {}
    return _scores("", results[0], doc["report"]) | baseline


def _scores(prefix: str, hypothesis: str, reference: str) -> dict:
    bleu = bleu_statistics([hypothesis], [reference])[0].tolist()
    return {
        f"{prefix}BLEU_1": bleu,
        f"{prefix}BLEU_4": bleu,
        f"{prefix}METEOR": meteor_statistics([hypothesis], [reference])[0].tolist(),
        f"{prefix}ROUGE_L": rouge_l(hypothesis, reference),
    }
