"""The report scores against pycocoevalcap, sacrebleu and rouge_score, against values worked out by hand, and on awkward
texts.
"""

import json
import math
import os
import random
import shutil
import stat

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU as SacreBleu

import report_scores.metrics.meteor
from report_scores.metrics.bleu import bleu, bleu_statistics
from report_scores.metrics.cider import cider_scores
from report_scores.metrics.meteor import Jar, meteor, meteor_statistics, require_java, require_meteor
from report_scores.metrics.rouge import rouge_l, rouge_l_scores, rouge_score_l_scores
from report_scores.metrics.tokens import tokens
from report_scores.scorer import (
    ABNORMAL_F1,
    BLEU,
    CIDER,
    FINDING_F1,
    LABEL_F1,
    METEOR,
    ROUGE_L,
    ROUGE_SCORE_L,
    Scorer,
    corpus_bleu_1,
    corpus_bleu_4,
    corpus_meteor,
    micro_f1,
)

WORDS = (
    "The heart size IS normal , lungs are clear . No pleural effusion or pneumothorax (left) 3.5 cm naïve café".split()
)
Corpus = tuple[list[str], list[str]]


def random_corpus(seed: int, documents: int = 30) -> Corpus:
    """Hypotheses and references; a hypothesis is a disturbed copy of its reference, one of them an exact copy."""
    generator = random.Random(seed)
    hypotheses, references = [], []
    for _ in range(documents):
        reference = generator.choices(WORDS, k=generator.randint(5, 40))
        kept = [word for word in reference if generator.random() < 0.8]
        hypotheses.append(" ".join(kept + generator.choices(WORDS, k=generator.randint(1, 8))))
        references.append("\n".join(reference))
    return [references[0], *hypotheses[1:]], references


def joined(corpus: Corpus) -> tuple[dict, dict]:
    """References and hypotheses in the form of pycocoevalcap, on our tokens."""
    hypotheses, references = corpus
    return tuple({key: [" ".join(tokens(text))] for key, text in enumerate(part)} for part in (references, hypotheses))


def corpus_score(metric, name: str, corpus: Corpus) -> float:
    return float(metric.scores[name](metric.statistics(*corpus).sum(axis=0)))


def corpus_bleu(corpus: Corpus, order: int) -> float:
    return float(bleu(bleu_statistics(*corpus).sum(axis=0), order))


def test_tokens_are_lower_case_words_and_single_marks():
    assert tokens("No Effusion;\n3.5 cm (LEFT)…") == ["no", "effusion", ";", "3", ".", "5", "cm", "(", "left", ")", "…"]


@pytest.mark.parametrize("seed", range(10))
def test_bleu_equals_pycocoevalcap_and_sacrebleu(seed):
    corpus = random_corpus(seed)
    expected, _ = Bleu(4).compute_score(*joined(corpus), verbose=0)
    assert [corpus_bleu(corpus, order) for order in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-5)
    sacrebleu = SacreBleu(tokenize="none", smooth_method="none", force=True)
    references, hypotheses = ([text for [text] in part.values()] for part in joined(corpus))
    assert corpus_bleu(corpus, 4) == pytest.approx(sacrebleu.corpus_score(hypotheses, [references]).score / 100)


@pytest.mark.parametrize("seed", range(10))
def test_rouge_l_and_cider_equal_pycocoevalcap(seed):
    corpus = random_corpus(seed)
    _, expected = Rouge().compute_score(*joined(corpus))
    assert rouge_l_scores(*corpus) == pytest.approx(expected, abs=1e-12)
    mean, expected = Cider().compute_score(*joined(corpus))
    assert cider_scores(*corpus) == pytest.approx(expected, abs=1e-12)
    assert corpus_score(CIDER, "CIDEr", corpus) == pytest.approx(mean, abs=1e-12)


def test_meteor_equals_the_jar_for_the_corpus_and_each_document():
    hypotheses, references = random_corpus(0, documents=60)
    inflected = ["lung effusions small", "small lungs effusion"], ["lungs effusion small", "small lung effusions"]
    corpus = hypotheses + inflected[0], references + inflected[1]  # whole texts match by their stems
    statistics = meteor_statistics(*corpus)
    expected, each = Meteor().compute_score(*joined(corpus))
    assert meteor(statistics.sum(axis=0)) == pytest.approx(expected, abs=1e-12)
    assert meteor(statistics) == pytest.approx(each, abs=1e-12)


@pytest.mark.real_data
@pytest.mark.cold_start  # METEOR with all its paraphrases
def test_real_reports_score_as_in_pycocoevalcap(radiology_data, monkeypatch):
    monkeypatch.setattr(report_scores.metrics.meteor, "_JAR", Jar())
    annotation = json.loads((radiology_data / "iu_xray" / "annotation_with_clinic_info.json").read_text())
    reports = [record["report"] for record in annotation["val"]]
    corpus = reports, reports[1:] + reports[:1]
    expected, _ = Bleu(4).compute_score(*joined(corpus), verbose=0)
    assert [corpus_bleu(corpus, order) for order in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-5)
    for scorer, metric in ((Rouge(), ROUGE_L), (Cider(), CIDER)):
        expected, _ = scorer.compute_score(*joined(corpus))
        assert corpus_score(metric, metric.name, corpus) == pytest.approx(expected, abs=1e-9)
    expected, _ = Meteor().compute_score(*joined(corpus))
    assert corpus_score(METEOR, "METEOR", corpus) == pytest.approx(expected, abs=1e-9)


def test_the_two_rouge_l_differ_and_the_second_is_the_package_s_own():
    corpus = ["The naïve heart: NORMAL, 3.5 cm."], ["Heart normal. 3.5 cm"]
    [expected] = [RougeScorer(["rougeL"]).score(*pair[::-1])["rougeL"] for pair in zip(*corpus, strict=True)]
    [theirs], [ours] = rouge_score_l_scores(*corpus), rouge_l_scores(*corpus)
    assert theirs == expected.fmeasure == pytest.approx(2 * 5 / (5 + 8))  # the na ve heart normal 3 5 cm
    assert ours == rouge_l(corpus[0][0], corpus[1][0]) and abs(ours - theirs) > 0.01


def test_scores_have_a_statistics_matrix_whose_sums_over_any_shards_are_exact():
    scorer = Scorer([BLEU, ROUGE_L, ROUGE_SCORE_L, CIDER, FINDING_F1])
    assert scorer.names == ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "ROUGE_L", "rouge_score_L", "CIDEr", "finding_F1")
    corpus = random_corpus(seed=3)
    statistics = scorer.statistics(*corpus)
    whole, sharded = (
        {name: float(score) for name, score in scorer.scores(sums).items()}
        for sums in (statistics.sum(axis=0), statistics[::2].sum(axis=0) + statistics[1::2].sum(axis=0))
    )
    assert sharded == pytest.approx(whole, abs=1e-12) and tuple(whole) == scorer.names
    for metric in scorer.metrics:
        for name in metric.scores:
            assert whole[name] == pytest.approx(corpus_score(metric, name, corpus), abs=1e-12)
    many = scorer.scores(np.stack([statistics.sum(axis=0), statistics[:3].sum(axis=0)]))
    assert [many[name][0] for name in scorer.names] == pytest.approx(list(whole.values()))
    assert many["BLEU_4"][1] == pytest.approx(corpus_bleu([part[:3] for part in corpus], 4))


def test_known_statistics_are_not_computed_again(monkeypatch):
    hypotheses, references = random_corpus(seed=1, documents=3)
    known = np.arange(3 * METEOR.columns, dtype=float).reshape(3, -1)
    monkeypatch.setattr(report_scores.metrics.meteor, "_JAR", None)
    matrix = Scorer([ROUGE_L, METEOR]).statistics(hypotheses, references, {"METEOR": known})
    assert (matrix[:, 2:] == known).all() and matrix[:, 0] == pytest.approx(rouge_l_scores(hypotheses, references))


def test_corpus_bleu_is_not_the_mean():
    corpus = random_corpus(seed=3)
    assert abs(corpus_bleu(corpus, 4) - float(bleu(bleu_statistics(*corpus), 4).mean())) > 0.01


def test_bleu_by_hand():
    assert corpus_bleu((["the heart is big"], ["the heart is normal"]), 1) == pytest.approx(3 / 4)
    brevity_penalty = math.exp(1 - 4 / 2)
    assert corpus_bleu((["the heart"], ["the heart is normal"]), 1) == pytest.approx(brevity_penalty)
    assert corpus_bleu((["the the the"], ["the heart is"]), 1) == pytest.approx(1 / 3)


def test_rouge_l_by_hand():
    precision, recall = 2 / 3, 2 / 4  # the common subsequence is "heart normal"
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l("heart clear normal", "the heart is normal") == pytest.approx(expected)


def test_cider_by_hand():
    references = ["heart normal", "lungs clear", "heart enlarged"]
    same, other, shared = cider_scores(["heart normal", "lungs clear", "heart normal"], references)
    assert same == pytest.approx(5)  # two of the four orders match in full, and there is none of the others
    rare, common = math.log(3), math.log(3 / 2)
    cosine = common**2 / (common**2 + rare**2)  # of the words; "normal" is as rare as "enlarged"
    assert (other, shared) == pytest.approx((5, 10 * cosine / 4))
    longer = cider_scores(["heart normal lungs clear", *references[1:]], references)[0]
    assert longer < same * math.exp(-(2**2) / 72)  # two bigrams longer


def test_f1_counts_what_is_found_and_agrees_on_nothing():
    metric = micro_f1("words", str.split)
    assert corpus_score(metric, "words", (["a b", "c"], ["b c", ""])) == pytest.approx(2 * 1 / (2 + 2 + 1))
    assert corpus_score(metric, "words", ([""], [""])) == 1
    truth = "There is a small left pleural effusion."
    assert corpus_score(FINDING_F1, "finding_F1", ([truth], [truth])) == 1
    assert corpus_score(FINDING_F1, "finding_F1", (["Small right effusion."], [truth])) == 0


@pytest.mark.parametrize("hypothesis", ["", "\n", "entirely other words"])
def test_nothing_in_common_scores_zero(hypothesis):
    corpus = [hypothesis], ["No acute findings."]
    scorer = Scorer([BLEU, METEOR, ROUGE_L, ROUGE_SCORE_L, CIDER])
    scores = scorer.scores(scorer.statistics(*corpus).sum(axis=0))
    assert set(map(float, scores.values())) == {0}


def test_no_four_words_in_a_row_is_zero_bleu_4_but_not_zero_bleu_1():
    corpus = ["clear lungs normal heart"], ["heart normal lungs clear"]
    assert corpus_bleu(corpus, 4) == 0
    assert corpus_bleu(corpus, 1) == 1


def test_the_functions_of_lmms_eval_take_rows_in_any_order():
    corpus = random_corpus(seed=2, documents=5)
    rows = bleu_statistics(*corpus).tolist()
    assert corpus_bleu_1(rows) == corpus_bleu_1(rows[::-1]) == corpus_bleu(corpus, 1)
    assert corpus_bleu_4(rows) == corpus_bleu(corpus, 4)
    assert corpus_meteor(meteor_statistics(*corpus).tolist()) == corpus_score(METEOR, "METEOR", corpus)


@pytest.mark.parametrize("hypotheses, references", [([], []), (["a"], ["a", "b"])])
def test_statistics_want_one_reference_for_each_hypothesis(hypotheses, references):
    with pytest.raises(ValueError, match="give as many"):
        Scorer().statistics(hypotheses, references)


def test_meteor_of_texts_with_newlines_bars_and_nothing():
    texts = ["Lungs\nare ||| clear.\r\n", ""], ["Lungs are | clear.", "No effusion."]
    assert meteor(meteor_statistics(*texts).sum(axis=0)) > 0.1


def test_without_java_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="openjdk-17-jre-headless"):
        require_java()
    with pytest.raises(ValueError, match="openjdk-17-jre-headless"):
        Jar().statistics("a", "a")


@pytest.mark.parametrize(
    "script, message",
    [
        ("echo 'no memory left' >&2; exit 3", r"METEOR failed \(java exit status 3\): no memory left"),
        ("exit 1", r"exit status 1\): no output"),
        ("read line; echo 'Error: what is this'", "METEOR failed: Error: what is this"),
    ],
)
def test_a_failing_jar_is_an_error_with_its_reason(monkeypatch, tmp_path, script, message):
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ValueError, match=message):
        Jar().statistics("a", "a")


def test_a_missing_jar_names_the_package(monkeypatch):
    def files(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(report_scores.metrics.meteor.importlib.resources, "files", files)
    with pytest.raises(ValueError, match="pip install pycocoevalcap"):
        report_scores.metrics.meteor.require_meteor()


def test_a_normal_report_gets_nothing_for_what_is_abnormal():
    normal = "The heart is normal in size. The lungs are clear."
    enlarged = "The heart is enlarged. There is a pleural effusion."
    corpus = [normal] * 3, [normal, normal, enlarged]
    assert corpus_score(LABEL_F1, "label_F1", corpus) == pytest.approx(2 * 2 / (3 + 4))
    assert corpus_score(ABNORMAL_F1, "abnormal_F1", corpus) == 0
    assert corpus_score(ABNORMAL_F1, "abnormal_F1", ([enlarged], [enlarged])) == 1


def test_meteor_works_below_a_folder_of_any_name(tmp_path, monkeypatch):
    """Its jar escapes its own URL twice, so that it finds no data below most of them."""
    texts = "the heart is enlarged", "the heart is large and wide"
    expected = meteor_statistics(*([text] for text in texts))[0].tolist()
    copy = shutil.copytree(require_meteor().parent, tmp_path / "a b%20#+" / "Größe 肺")
    monkeypatch.setattr(report_scores.metrics.meteor, "require_meteor", lambda: copy / "meteor-1.5.jar")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.delenv("HOME", raising=False)
    jar = Jar()
    assert jar.statistics(*texts) == expected
    jar.process.kill()
