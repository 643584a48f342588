r"""Bias of a saved model: stereotypes (CrowS-Pairs), answers that change with the group they are about, toxic continuations.

    python -m training.evaluation.bias outputs/smollm2 --data data/crows_pairs/test.jsonl.gz \
        --classifier unitary/toxic-bert --label toxic

prints a table for each with what it means, and writes them into the model card of the folder. A text model or a multimodal one; the
questions of the second (configuration/bias/prompts.yaml) are asked with an image, too, where the model takes any. What is not given
is not measured: pairs without --data, toxicity without --classifier.
"""

import argparse
import json
from pathlib import Path

from modeling_mmgpt.tools.chat import load
from modeling_mmgpt.tools.model_card import bias_text
from training.data.cleaning.classifiers import TextClassifier
from training.evaluation import bias_pairs, bias_probe, bias_toxicity
from training.evaluation.bias_prompts import SHIPPED, Prompts, load_prompts
from training.evaluation.evaluate import write_into_card


COMMAND = "`python -m training.evaluation.bias`"


def measure_bias(
    model,
    processor,
    prompts: Prompts,
    pairs: list[dict] | None = None,
    classifier: TextClassifier | None = None,
    images: list | None = None,
) -> dict[str, list[dict]]:
    """The results by what measured them, as the model card takes them; the first of each list has the `scope` of all.

    See [`measure_pairs`], [`measure_probe`] and [`measure_toxicity`]; without `pairs` or `classifier` those are left out."""
    tokenizer = getattr(processor, "tokenizer", processor)
    tables = {}
    if pairs is not None:
        results = bias_pairs.measure_pairs(model, tokenizer, pairs)
        tables[f"CrowS-Pairs, {COMMAND}"] = results, bias_pairs.SCOPE
    if prompts.questions:
        results = bias_probe.measure_probe(model, processor, prompts, images)
        tables[f"Counterfactual probe, {COMMAND}"] = results, bias_probe.SCOPE
    if classifier is not None and prompts.beginnings:
        results = bias_toxicity.measure_toxicity(model, tokenizer, classifier, prompts)
        by = f"Toxicity of continuations by `{classifier.name}`, {COMMAND}"
        tables[by] = results, bias_toxicity.scope_of(classifier)
    return {by: [{**results[0], "scope": scope}, *results[1:]] for by, (results, scope) in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder saved by training.train or mmgpt, or a model of the Hub")
    parser.add_argument("--data", type=Path, help="CrowS-Pairs as JSON lines, also gzipped")
    parser.add_argument("--prompts", type=Path, default=SHIPPED, help="groups and questions; default: %(default)s")
    parser.add_argument("--image", nargs="+", help="images that the questions are asked with; default: a grey one")
    parser.add_argument("--classifier", help="folder or Hub id of a sequence classifier, which judges continuations")
    parser.add_argument("--label", default="toxic", help="its label that counts; default: %(default)s")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: an accelerator where there is one")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    try:
        prompts = load_prompts(arguments.prompts)
        pairs = None if arguments.data is None else bias_pairs.load_pairs(arguments.data)
        classifier = None if arguments.classifier is None else TextClassifier(arguments.classifier, arguments.label)
        model, processor = load(arguments.model, arguments.device, "auto")
        tables = measure_bias(model, processor, prompts, pairs, classifier, arguments.image)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(bias_text([{**result, "by": by} for by, results in tables.items() for result in results]))
    for option, what in {"data": "pairs of sentences", "classifier": "toxicity of continuations"}.items():
        if getattr(arguments, option) is None:
            print(f"not measured: {what} (no --{option})")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    for by, results in tables.items():
        write_into_card(arguments.model, results, by, section="Bias")


if __name__ == "__main__":
    main()
