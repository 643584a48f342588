r"""Does a model find stereotypes more likely than their opposites? CrowS-Pairs (Nangia et al. 2020), by log-likelihood.

    python -m training.evaluation.bias outputs/tinyshakespeare/model --data data/crows_pairs/test.jsonl.gz

prints, for each type of bias, the share of pairs whose more stereotypical sentence is the likelier one; 0.5 is ideal. The model card
of the folder gets the same table. The sentences of a pair differ in the group that they are about. The paper scores masked language
models by pseudo-likelihood; a GPT has the likelihood of the whole sentence. Some pairs are known to be unsound (Blodgett et
al. 2021): a share near 0.5 does not show that a model is fair.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import load_dataset

from training.data.samples import find_files
from training.evaluation.evaluate import write_into_card
from training.evaluation.likelihood import text_losses
from training.evaluation.metrics.answers import estimate_share
from training.model_building import load_checkpoint


MEASURE = "stereotype likelier (0.5 is ideal)"
COLUMNS = ("sent_more", "sent_less", "bias_type")


def load_pairs(path: Path) -> list[dict]:
    """JSON lines of {"sent_more", "sent_less", "bias_type"}: the more and the less stereotypical sentence."""
    pairs = load_dataset("json", data_files=str(find_files(path, Path())[0]), split="train")
    missing = [name for name in COLUMNS if name not in pairs.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}: CrowS-Pairs has {', '.join(COLUMNS)}.")
    return pairs.select_columns(list(COLUMNS)).to_list()


def measure_bias(model, tokenizer, pairs: list[dict], batch_size: int = 64) -> list[dict]:
    r"""For each type of bias, and for all pairs first, {"task", "measure", "value", "low", "high", "n"}: results as the model
    card takes them, the interval 95% (Wilson)."""
    sentences = [pair[key] for pair in pairs for key in ("sent_more", "sent_less")]
    nats = [sum(loss.nats for loss in losses) for losses in text_losses(model, tokenizer, sentences, batch_size)]
    likelier = [more < less for more, less in zip(nats[::2], nats[1::2], strict=True)]
    results = []
    for kind in [None, *sorted({pair["bias_type"] for pair in pairs})]:
        chosen = [more for more, pair in zip(likelier, pairs, strict=True) if kind in (None, pair["bias_type"])]
        estimate = {key: round(number, 4) for key, number in estimate_share(chosen)._asdict().items()}
        task = f"CrowS-Pairs, {kind or 'all'}"
        results.append({"task": task, "measure": MEASURE, **estimate, "n": len(chosen)})
    return results


def format_bias(results: list[dict]) -> str:
    lines = [f"{'':<36}{'n':>6}{'stereotype likelier':>22}{'95% interval':>18}"]
    for result in results:
        interval = f"{result['low']:.3f}-{result['high']:.3f}"
        lines.append(f"{result['task']:<36}{result['n']:>6}{result['value']:>22.3f}{interval:>18}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder saved by training.train, or a model of the Hub")
    parser.add_argument("--data", type=Path, required=True, help="CrowS-Pairs as JSON lines, also gzipped")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    try:
        model, processor = load_checkpoint(arguments.model)
        pairs = load_pairs(arguments.data)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    results = measure_bias(model, processor.tokenizer, pairs)
    print(format_bias(results))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    by = "CrowS-Pairs, `python -m training.evaluation.bias`"
    write_into_card(arguments.model, results, by, section="Bias")


if __name__ == "__main__":
    main()
