r"""Train a model as a recipe says, with Hugging Face's Trainer, and save it as one complete folder.

    python -m training.train configuration/recipes/fsdd.yaml training.seed=1

leaves in the recipe's output_dir: model/ (loads with AutoModel anywhere), loss.png, training.json, recipe.yaml (the recipe with
its overrides) and data.parquet (the samples that it learns from, by name and digest); with peft also adapter/. Where the recipe
saves checkpoints (training.save_strategy), a run that was interrupted goes on when the same command is given again.

Exit status: 0 finished, 1 the run went wrong, 2 the recipe is wrong, 75 stopped by SIGTERM or SIGINT and not finished.
"""

import argparse
import logging
import sys
from contextlib import nullcontext
from pathlib import Path

from transformers import set_seed

from training.data.samples import DataError, MissingData
from training.data.training_set import TrainingSet
from training.model_building import build_model_and_processor
from training.recipe import Recipe, RecipeError, load_recipe
from training.resuming import checkpoint_to_resume, finished_report
from training.run_lock import locked
from training.run_results import save_run
from training.stopping import UNFINISHED, RunFailed, RunStopped, unwritten
from training.trainer import RecipeTrainer


logger = logging.getLogger(__name__)

# How a run can end before its last step: the exit status, and what stands before the sentence that says why.
ENDINGS = {
    RunFailed: (1, "The run went wrong"),
    DataError: (1, "The data are wrong"),
    MissingData: (2, "error"),
    RecipeError: (2, "error"),
    RunStopped: (UNFINISHED, "Not finished"),
}


def train(recipe: Recipe) -> dict:
    """Run the recipe, or what is left of it; returns what is also written to training.json."""
    folder = Path(recipe.training.output_dir)
    with locked(folder) if recipe.training.process_index == 0 else nullcontext():
        report = finished_report(recipe)
        if report is not None:
            done = "%s holds this run, finished after %d steps: nothing is done. Remove the folder to train it anew."
            logger.warning(done, folder, report["steps"])
            return report
        checkpoint = checkpoint_to_resume(recipe)
        set_seed(recipe.training.seed)
        data = TrainingSet(recipe, checkpoint)
        model, processor = build_model_and_processor(recipe, data.tokenizer_samples(), checkpoint)
        trainer = RecipeTrainer(recipe, model, processor, data, checkpoint)
        trainer.train()
        return save_run(trainer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="file in configuration/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example training.max_steps=100")
    parser.add_argument("--print-config", action="store_true", help="print the recipe with all its defaults and stop")
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
    except (RecipeError, FileNotFoundError) as error:
        parser.error(str(error))
    if arguments.print_config:
        print(recipe.to_yaml(), end="")
    else:
        train_and_exit(recipe)


def train_and_exit(recipe: Recipe) -> None:
    """Train and say in one sentence how it ended; raises SystemExit where that is not the end of the run."""
    try:
        report = train(recipe)
    except tuple(ENDINGS) as end:
        status, what = next(ending for kind, ending in ENDINGS.items() if isinstance(end, kind))
        sentence = str(end).rpartition(f"{type(end).__name__}: ")[2]  # torch puts a worker's traceback before it
        print(f"{what}: {sentence.strip()}", file=sys.stderr)
        sys.exit(status)
    except Exception as error:
        problem = unwritten(error, Path(recipe.training.output_dir))
        if problem is None:
            raise
        sys.exit(f"The run went wrong: {problem}")
    print(
        f"{report['parameters']:,} parameters, {report['steps']} steps in {report['train_seconds']:.0f} s on "
        f"{report['hardware']}; saved in {recipe.training.output_dir}/model"
    )


if __name__ == "__main__":
    main()
