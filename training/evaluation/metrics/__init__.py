r"""Metrics as `evaluate.Metric` modules, by the name that samples carry as `metric`: `METRICS["bleu"]().compute(...)`.

`evaluate.load("training/evaluation/metrics/bleu.py")`, from the checkout, is the same and needs no network: for that, each metric
is a file of its own, however short. `bleu:zh`, and `evaluate.load(..., "zh")`, is the metric for Chinese. Libraries do the arithmetic where there is one. All that differs between metrics is in their
classes (see [`AnswerMetric`]); a new one is a file and a line here.
"""

from training.data.words import language_code
from training.evaluation.metrics.bleu import Translation
from training.evaluation.metrics.cider import CIDEr
from training.evaluation.metrics.error_rate import ErrorRate
from training.evaluation.metrics.exact_match import ExactMatch
from training.evaluation.metrics.final_answer import FinalAnswer
from training.evaluation.metrics.number_match import NumberMatch
from training.evaluation.metrics.perplexity import Perplexity
from training.evaluation.metrics.rouge import Rouge
from training.evaluation.metrics.squad import SQuAD
from training.evaluation.metrics.vqa_accuracy import VQAAccuracy
from training.recipe_files import valid_name


DEFAULT_METRIC = "exact_match"
METRICS = {
    "exact_match": ExactMatch,
    "final_answer": FinalAnswer,
    "number_match": NumberMatch,
    "vqa_accuracy": VQAAccuracy,
    "squad": SQuAD,
    "bleu": Translation,
    "rouge": Rouge,
    "cider": CIDEr,
    "wer": ErrorRate,
    "perplexity": Perplexity,
}


def find_metric(name: str | None):
    """A new metric of that name, exact match for None; `bleu:zh` is BLEU for Chinese."""
    name, colon, language = (name or DEFAULT_METRIC).partition(":")
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; {valid_name(name, METRICS)}.")
    return METRICS[name](language_code(language) if colon else None)
