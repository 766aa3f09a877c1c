"""Records and results of invented runs, for tests of the page and pictures of a comparison."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from service.compare.records import RunRecord, VariantResult
from service.run.predictions import Predictions

NUM_EPOCHS = 12
FAMILY_SIZE = 4


def make_predictions(accuracy, rng, num_images=200, num_classes=5):
    """Random predictions of about an accuracy, for images with the same labels in each call."""
    labels = np.arange(num_images, dtype=np.int32) % num_classes
    is_wrong = rng.random(num_images) > accuracy
    shift = np.where(is_wrong, rng.integers(1, num_classes, num_images), 0)
    return Predictions(
        samples=np.arange(num_images),
        labels=labels,
        predicted=((labels + shift) % num_classes).astype(np.int32),
        confidences=rng.uniform(0.3, 1.0, num_images).astype(np.float32),
        in_top5=np.ones(num_images, bool),
        losses=rng.uniform(0, 2, num_images).astype(np.float32),
    )


def make_runs(variants, seeds, pairs=("",), num_images=200, num_classes=5, num_epochs=NUM_EPOCHS):
    """Finished runs; the first variant is the base, and the others are the better the later."""
    rng = np.random.default_rng(3)
    runs = []
    for pair in pairs:
        teacher = make_predictions(0.8, rng, num_images, num_classes)
        for seed in seeds:
            for place, variant in enumerate(variants):
                final = 0.6 + 0.01 * place + rng.normal(0, 0.004)
                epochs = np.arange(1, num_epochs + 1)
                curve = final - 0.4 * np.exp(-5 * epochs / num_epochs)
                curve += rng.normal(0, 0.004, num_epochs)
                student = make_predictions(curve[-1], rng, num_images, num_classes)
                run = _finished(pair, variant, seed, [*zip(epochs.tolist(), curve, strict=True)])
                runs.append(
                    run._replace(
                        student=student,
                        teacher=teacher if place else None,
                        temperatures=_temperatures(num_epochs) if place % 3 == 1 else {},
                        images_per_s=1000.0 - 10 * place + seed,
                        peak_memory_bytes=2e9 + 1e8 * place,
                    )
                )
    return runs


def _finished(pair, variant, seed, curve):
    best_epoch, best = max(curve, key=lambda point: point[1])
    return RunRecord(
        pair,
        variant,
        seed,
        "finished",
        len(curve),
        curve=tuple(curve),
        last_top1=curve[-1][1],
        last_top5=0.9,
        best_top1=best,
        best_epoch=best_epoch,
        seconds=60.0 + seed,
    )


def _temperatures(num_epochs):
    epochs = np.linspace(0.1, num_epochs, 40).tolist()
    shifts = {"p5": -1.0, "mean": 0.0, "p95": 1.0}
    return {
        f"dtkd/{side}_temperature_{name}": tuple((e, level + shift + e / 10) for e in epochs)
        for side, level in (("teacher", 5.0), ("student", 3.0))
        for name, shift in shifts.items()
    }


def make_results(runs: Sequence[RunRecord], variants, pairs=("",)):
    """The results of runs; the first variant is the base. The level is 5 % / FAMILY_SIZE."""
    results = []
    for pair in pairs:
        top1 = {
            variant: {
                run.seed: run.last_top1
                for run in runs
                if (run.pair, run.variant, run.state) == (pair, variant, "finished")
            }
            for variant in variants
        }
        results += [_result(pair, name, top1, is_base=name == variants[0]) for name in variants]
        best = {(r.variant, r.seed): r.best_top1 for r in runs if r.pair == pair and r.best_top1}
        for place, result in enumerate(results):
            own = [value for (name, _), value in best.items() if name == result.variant]
            if result.pair == pair and own:
                results[place] = result._replace(best_mean=float(np.mean(own)))
    return results


def _result(pair, name, top1, *, is_base):
    own, base = top1[name], top1[next(iter(top1))]
    scores = [*own.values()]
    mean = float(np.mean(scores)) if scores else None
    deviation = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    shared = sorted(own.keys() & base.keys())
    result = VariantResult(
        pair, name, is_base, own, mean, deviation, mean, None, None, None, None, "the base"
    )
    if is_base:
        return result
    if not shared:
        return result._replace(verdict="more seeds needed")
    gaps = [own[seed] - base[seed] for seed in shared]
    difference = float(np.mean(gaps))
    if len(gaps) < 2:
        return result._replace(difference=difference, verdict="more seeds needed")
    found = stats.ttest_1samp(gaps, 0.0)
    low, high = found.confidence_interval(1 - 0.05 / FAMILY_SIZE)
    p_holm = min(1.0, FAMILY_SIZE * float(found.pvalue))
    verdict = "no more than noise"
    if low > 0 or high < 0:
        verdict = "better than the base" if difference > 0 else "WORSE than the base"
    return result._replace(
        difference=difference,
        interval=(float(low), float(high)),
        p_value=float(found.pvalue),
        p_holm=p_holm,
        verdict=verdict,
    )
