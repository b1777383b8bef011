"""Train a model of the embedded guard: `python training/train.py --data DATA --recipe NAME --out FOLDER`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
HELD = 3000  # held-out examples that calibrate the outputs; all of them take the large model a quarter of an hour
sys.path.insert(0, str(ROOT))  # so that the file also runs as a script

from training import bases, e5, fit, lanes, measure, mixture  # noqa: E402
from training.checkpoints import Checkpoints, digest  # noqa: E402
from training.export import write_weights  # noqa: E402
from training.labels import OUTPUTS  # noqa: E402
from training.recipes import RECIPES, Recipe  # noqa: E402


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse `argv`, or the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder with train/ and dev/"
    )
    parser.add_argument("--base", type=Path, default=None, help="the folder of the BERT or MPNet encoder to start from")
    parser.add_argument("--tokenizer", type=Path, default=None, help="the folder of the guard's tokenizer")
    parser.add_argument("--teacher", type=Path, default=None, help="the folder of a trained guard as teacher model")
    parser.add_argument("--start", type=Path, default=None, help="the folder of a trained guard to continue from")
    parser.add_argument("--dev", nargs="*", default=["*"], help="the sets of dev/ that are scored; all if not given")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="large", help="how to train")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the weights")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the training rows, for learning curves")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first stage")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=bases.cache() / "checkpoints",
        help="the folder of what a run that is ended early continues from; the run deletes its own files at its end",
    )
    return parser.parse_args(argv)


def calibrate(logits: measure.Floats, held: list[mixture.Example]) -> tuple[dict[str, Any], dict[str, float]]:
    """Fit each output's temperature and bias on one half of the held-out rows; measure its error on the other half.

    An output without both positives and negatives in each half keeps temperature 1 and bias 0, and has no error.
    """
    half = np.arange(len(held)) % 2 == 0
    calibration: dict[str, Any] = {}
    errors: dict[str, float] = {}
    for column, name in enumerate(OUTPUTS):
        known = np.array([name in e.labels for e in held])
        truth = np.array([e.labels.get(name, (0.0, 0.0))[0] for e in held])
        weight = np.array([e.labels.get(name, (0.0, 0.0))[1] for e in held])
        fitting, testing = known & half, known & ~half
        if len(set(truth[fitting])) < 2 or len(set(truth[testing])) < 2:
            calibration[name] = {"temperature": 1.0, "bias": 0.0}
            continue
        temperature, bias = measure.fit_calibration(truth[fitting], logits[fitting, column], weight[fitting])
        calibration[name] = {"temperature": round(temperature, 4), "bias": round(bias, 4)}
        chance = 1 / (1 + np.exp(-(logits[testing, column] / temperature + bias)))
        errors[name] = round(measure.calibration_error(truth[testing], chance), 4)
    return calibration, errors


def base_folder(args: argparse.Namespace, recipe: Recipe) -> Path:
    """The folder of the encoder that training starts from: --base, or the recipe's."""
    if args.base:
        return Path(args.base)
    if recipe.base == "e5":
        return e5.folder(bases.e5_file(), args.data / "train", bases.cache())
    return bases.mpnet() if recipe.base == "mpnet" else bases.minilm()


def tokenizer_folder(args: argparse.Namespace, recipe: Recipe) -> Path:
    """The folder of the guard's tokenizer: of the guard to continue from, --tokenizer, or the recipe's.

    The small and the large model share MiniLM's tokens; a multilingual model has those of its encoder.
    """
    return Path(args.start or args.tokenizer or (base_folder(args, recipe) if recipe.base == "e5" else bases.minilm()))


def checkpoints(args: argparse.Namespace) -> Checkpoints:
    """The checkpoints of the run: of what decides its result, up to the rounding of sums in another number of threads.

    Raises BlockingIOError if another process runs the same.
    """
    recipe = RECIPES[args.recipe]
    inputs = {
        "recipe": args.recipe,
        "seed": str(args.seed),
        "share": str(args.share),
        "data": digest([args.data / "train", *sorted((args.data / "dev").glob("*.gz"))]),
        "dev": " ".join(args.dev),
        "base": digest([base_folder(args, recipe), tokenizer_folder(args, recipe)]),
        "teacher": digest([args.teacher] if args.teacher else []),
        "start": digest([args.start] if args.start else []),
        "code": digest([*(ROOT / "training").glob("*.py"), *(ROOT / "training").glob("*.json*")]),
        "torch": torch.__version__,
        "numbers": fit.numbers(),
    }
    return Checkpoints(args.checkpoints, args.recipe, inputs)


def is_done(out: Path, key: str) -> bool:
    """Whether a run with these inputs has ended and written its weights to `out`: scores.json is its last file."""
    scores = out / "scores.json"
    return scores.is_file() and json.loads(scores.read_text()).get("run", {}).get("inputs") == key


def depth(name: str) -> int:
    """The number of stages before the last one of a recipe: of the longest line, for a mean."""
    recipe = RECIPES[name]
    before = recipe.mean or ((recipe.after,) if recipe.after else ())
    own = 0 if recipe.mean or not recipe.after else 1
    return own + max((depth(part) for part in before), default=0)


def train(
    args: argparse.Namespace, name: str, rows: list[dict[str, Any]], tokenizer: Tokenizer, kept: Checkpoints
) -> tuple[fit.Model, int]:
    """Train a recipe after the recipes that it continues from; return the guard and the number of its own examples.

    `rows` are the rows that are not held out. Stage n (from 0) of a line has the seed `args.seed` + n, so that the last
    stage gives the same result after the others and alone, from the folder of the stage before it (--start).
    """
    recipe = RECIPES[name]
    if recipe.mean:
        models, counts = zip(*(train(args, part, rows, tokenizer, kept) for part in recipe.mean), strict=True)
        return fit.mean(models), sum(counts)
    done = kept.load(name)
    if args.start:
        model = fit.trained_model(args.start)
    elif recipe.after and not done:
        model, _ = train(args, recipe.after, rows, tokenizer, kept)
    else:
        model = fit.new_model(base_folder(args, recipe), tokenizer, args.seed)
    if done:
        count = int(done.pop("examples"))
        model.load_state_dict(done)
        return model.to(lanes.device()).eval(), count
    seed = args.seed + depth(name)
    model, count = stage(args, recipe, seed, name=name, rows=rows, tokenizer=tokenizer, model=model, kept=kept)
    kept.save(name, {"examples": torch.tensor(count), **model.state_dict()})
    kept.discard(f"{name}-states", f"{name}-teacher", f"{name}-steps")
    return model, count


def stage(
    args: argparse.Namespace,
    recipe: Recipe,
    seed: int,
    *,
    name: str,
    rows: list[dict[str, Any]],
    tokenizer: Tokenizer,
    model: fit.Model,
    kept: Checkpoints | None = None,
) -> tuple[fit.Model, int]:
    """Train `model` by the recipe called `name`; return it with the number of examples."""
    examples = mixture.build(rows, recipe, seed)
    data = fit.learnable(tokenizer, examples, recipe, seed)
    print(f"{name}: {len(examples)} examples, {len(data.windows.ids)} windows, {lanes.device()}", flush=True)
    if recipe.soft:
        more = fit.learnable(tokenizer, mixture.unlabelled(rows, recipe, seed), recipe, seed)
        everything = fit.join(data, more)
        teacher = fit.trained_model(args.teacher)
        logits = fit.window_logits(teacher.to(lanes.device()), everything.windows, f"{name}-teacher", kept)
        data = fit.blend(everything, np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32), recipe.soft)
    return fit.fit(model, data, recipe, seed, name, kept=kept), len(examples)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the mixture, train, calibrate on held-out rows, measure on dev/, write weights and scores."""
    args = arguments(argv)
    if args.start and RECIPES[args.recipe].mean:
        sys.exit(f"--start: {args.recipe} is the mean of several trainings from the base encoder; leave --start out")
    kept = checkpoints(args)
    if is_done(args.out, kept.key):
        kept.remove()
        print(f"{args.out}: has the weights of these inputs already; delete scores.json there to train them again")
        return
    began = time.monotonic()
    rows = mixture.read_rows(args.data / "train")
    learn = [r for r in rows if not mixture.is_held_out(r)][:: max(1, round(1 / args.share))]
    held_out = [r for r in rows if mixture.is_held_out(r)]
    held = mixture.held_out(held_out, RECIPES[args.recipe])
    held = random.Random(args.seed).sample(held, min(len(held), HELD))
    tokenizer = fit.load_tokenizer(tokenizer_folder(args, RECIPES[args.recipe]))
    model, count = train(args, args.recipe, learn, tokenizer, kept)
    training_s = time.monotonic() - began

    pairs = [(e.question, e.text) for e in held]
    calibration, errors = calibrate(fit.text_logits(model, tokenizer, pairs, "held-out", kept), held)
    dev = measure.dev_rows(args.data, args.dev)
    logits = fit.text_logits(model, tokenizer, measure.dev_pairs(dev), "dev", kept)
    scores = measure.measure_dev(dev, measure.probabilities(logits, calibration))
    scores["held_out"] = {"calibration_error": errors}
    scores["run"] = {
        "recipe": args.recipe,
        "seed": args.seed,
        "share": args.share,
        "examples": count,
        "device": str(lanes.device()),
        "seconds": round(training_s),
        "inputs": kept.key,
    }
    (args.out / "scores.json").unlink(missing_ok=True)  # until the end it would be that of other weights
    write_weights(args.out, model, tokenizer, calibration)
    (args.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    kept.remove()
    print(measure.as_table({k: v for k, v in scores.items() if k not in ("held_out", "run")}))
    print("calibration error on held-out rows:", errors)
    print(f"trained in {training_s:.0f} s, {time.monotonic() - began:.0f} s in total")


if __name__ == "__main__":
    main()
