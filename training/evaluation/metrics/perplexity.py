"""Perplexity of texts, and bits per byte, which does not depend on the tokenizer."""

import math

import datasets
import evaluate

from training.evaluation.metrics.answers import Estimate, estimate_ratio, tabulate


class Perplexity(evaluate.Metric):
    r"""`compute(losses=[nats of a window], tokens=[predicted in it], bytes=[of these tokens])` returns "perplexity" with "low" and
    "high", "loss" (nats per token), "bits_per_byte", each with "_low" and "_high" (bootstrap over windows), and "n" windows."""

    measure = "perplexity"
    about = ("perplexity, nats per token, bits per byte", "text", "own")
    needs_generation = False

    def _info(self) -> evaluate.MetricInfo:
        columns = {"losses": "float64", "tokens": "int64", "bytes": "int64"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in columns.items()})
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=features)

    def _compute(self, losses: list[float], tokens: list[int], bytes: list[int]) -> dict[str, float]:
        loss = estimate_ratio(losses, tokens)
        bits = estimate_ratio([nats / math.log(2) for nats in losses], bytes)
        perplexity = Estimate(*(math.exp(number) for number in loss))
        return tabulate({"perplexity": perplexity, "loss": loss, "bits_per_byte": bits}, len(losses))
