"""The report scores against pycocoevalcap and sacrebleu, against values worked out by hand, and on awkward texts."""

import json
import math
import os
import random
import stat

import pytest
import report_metrics
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from report_metrics import (
    METRICS,
    bleu_statistics,
    corpus_bleu_1,
    corpus_bleu_4,
    corpus_meteor,
    require_java,
    rouge_l,
    scores,
    tokens,
)
from sacrebleu.metrics import BLEU

WORDS = (
    "The heart size IS normal , lungs are clear . No pleural effusion or pneumothorax (left) 3.5 cm naïve café".split()
)


def random_corpus(seed: int, documents: int = 30) -> list[tuple[str, str]]:
    """(hypothesis, reference) pairs; the hypothesis is a disturbed copy of its reference."""
    generator = random.Random(seed)
    pairs = []
    for _ in range(documents):
        reference = generator.choices(WORDS, k=generator.randint(5, 40))
        kept = [word for word in reference if generator.random() < 0.8]
        pairs.append((" ".join(kept + generator.choices(WORDS, k=generator.randint(1, 8))), "\n".join(reference)))
    return pairs


def joined(pairs: list[tuple[str, str]]) -> tuple[dict, dict]:
    """References and hypotheses in the form of pycocoevalcap, on our tokens."""
    hypotheses, references = zip(*pairs, strict=True)
    return ({key: [" ".join(tokens(text))] for key, text in enumerate(texts)} for texts in (references, hypotheses))


def statistics(pairs: list[tuple[str, str]]) -> list[list[int]]:
    return [bleu_statistics(*pair) for pair in pairs]


def test_tokens_are_lower_case_words_and_single_marks():
    assert tokens("No Effusion;\n3.5 cm (LEFT)…") == ["no", "effusion", ";", "3", ".", "5", "cm", "(", "left", ")", "…"]


@pytest.mark.parametrize("seed", range(10))
def test_bleu_equals_pycocoevalcap_and_sacrebleu(seed):
    pairs = random_corpus(seed)
    references, hypotheses = joined(pairs)
    expected, _ = Bleu(4).compute_score(references, hypotheses, verbose=0)
    assert corpus_bleu_1(statistics(pairs)) == pytest.approx(expected[0], abs=1e-5)
    assert corpus_bleu_4(statistics(pairs)) == pytest.approx(expected[3], abs=1e-5)
    sacrebleu = BLEU(tokenize="none", smooth_method="none", force=True)
    texts = [[text for [text] in group.values()] for group in (hypotheses, references)]
    assert corpus_bleu_4(statistics(pairs)) == pytest.approx(sacrebleu.corpus_score(texts[0], [texts[1]]).score / 100)


@pytest.mark.parametrize("seed", range(10))
def test_rouge_l_equals_pycocoevalcap(seed):
    pairs = random_corpus(seed)
    references, hypotheses = joined(pairs)
    _, expected = Rouge().compute_score(references, hypotheses)
    assert [rouge_l(*pair) for pair in pairs] == pytest.approx(list(expected), abs=1e-12)


@pytest.mark.real_data
def test_real_reports_score_as_in_pycocoevalcap(radiology_data):
    annotation = json.loads((radiology_data / "iu_xray" / "annotation_with_clinic_info.json").read_text())
    reports = [record["report"] for record in annotation["val"]]
    pairs = list(zip(reports, reports[1:] + reports[:1], strict=True))
    references, hypotheses = joined(pairs)
    bleu, _ = Bleu(4).compute_score(references, hypotheses, verbose=0)
    rouge, _ = Rouge().compute_score(references, hypotheses)
    assert corpus_bleu_1(statistics(pairs)) == pytest.approx(bleu[0], abs=1e-5)
    assert corpus_bleu_4(statistics(pairs)) == pytest.approx(bleu[3], abs=1e-5)
    assert sum(rouge_l(*pair) for pair in pairs) / len(pairs) == pytest.approx(rouge, abs=1e-9)


def test_scores_have_the_four_keys_and_meteor_equals_pycocoevalcap():
    pairs = random_corpus(seed=0)
    references, hypotheses = joined(pairs)
    expected, _ = Meteor().compute_score(references, hypotheses)
    result = scores(*map(list, zip(*pairs, strict=True)))
    assert tuple(result) == METRICS
    assert result["METEOR"] == pytest.approx(expected, abs=1e-5)
    assert result["BLEU_4"] == corpus_bleu_4(statistics(pairs))
    assert result["ROUGE_L"] == pytest.approx(sum(rouge_l(*pair) for pair in pairs) / len(pairs))


def test_meteor_of_texts_with_newlines_bars_and_nothing():
    assert corpus_meteor([("Lungs\nare ||| clear.\r\n", "Lungs are | clear."), ("", "No effusion.")]) > 0.1


def test_bleu_by_hand():
    assert corpus_bleu_1(statistics([("the heart is big", "the heart is normal")])) == pytest.approx(3 / 4)
    brevity_penalty = math.exp(1 - 4 / 2)
    assert corpus_bleu_1(statistics([("the heart", "the heart is normal")])) == pytest.approx(brevity_penalty)
    assert corpus_bleu_1(statistics([("the the the", "the heart is")])) == pytest.approx(1 / 3)


def test_corpus_bleu_is_not_the_mean_and_does_not_depend_on_the_order():
    pairs = random_corpus(seed=3)
    sharded = pairs[::2] + pairs[1::2]
    assert corpus_bleu_4(statistics(sharded)) == corpus_bleu_4(statistics(pairs))
    mean = sum(corpus_bleu_4(statistics([pair])) for pair in pairs) / len(pairs)
    assert abs(corpus_bleu_4(statistics(pairs)) - mean) > 0.01


def test_rouge_l_by_hand():
    precision, recall = 2 / 3, 2 / 4  # the common subsequence is "heart normal"
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l("heart clear normal", "the heart is normal") == pytest.approx(expected)


@pytest.mark.parametrize("hypothesis", ["", "\n", "entirely other words"])
def test_nothing_in_common_scores_zero(hypothesis):
    pair = (hypothesis, "No acute findings.")
    assert rouge_l(*pair) == corpus_bleu_1(statistics([pair])) == corpus_bleu_4(statistics([pair])) == 0


def test_no_four_words_in_a_row_is_zero_bleu_4_but_not_zero_bleu_1():
    pair = ("clear lungs normal heart", "heart normal lungs clear")
    assert corpus_bleu_4(statistics([pair])) == 0
    assert corpus_bleu_1(statistics([pair])) == 1


@pytest.mark.parametrize("hypotheses, references", [([], []), (["a"], ["a", "b"])])
def test_scores_want_one_reference_for_each_hypothesis(hypotheses, references):
    with pytest.raises(ValueError, match="give as many"):
        scores(hypotheses, references)


def test_without_java_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="openjdk-17-jre-headless"):
        require_java()
    with pytest.raises(ValueError, match="openjdk-17-jre-headless"):
        corpus_meteor([("a", "a")])


def test_a_failing_jar_is_an_error_with_its_reason(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no memory left' >&2\nexit 3\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ValueError, match=r"exit status 3\): no memory left"):
        corpus_meteor([("a", "a")])


def test_a_missing_jar_names_the_package(monkeypatch):
    def files(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(report_metrics.importlib.resources, "files", files)
    with pytest.raises(ValueError, match="pip install pycocoevalcap"):
        report_metrics.require_meteor()
