"""The methods' published settings for ImageNet: R34 -> R18 and R50 -> MobileNetV1.

The literature's results of a "MobileNetV2" from ResNet-50 are of MobileNetV1. All settings are from
the authors' code unless noted.
"""

from service.spec.recipes.pairs import IMAGENET_PAIRS
from service.spec.recipes.settings import (
    HALF_BATCH,
    TWO_VIEWS,
    Method,
    Settings,
    crld_total,
    ctkd_total,
    dtkd_total,
    for_pairs,
    mlkd_total,
    total,
    wkd_total,
)

R18, MV1 = (pair.short_name for pair in IMAGENET_PAIRS)


def _dkd(beta: float) -> Settings:
    return Settings(total("dkd", 1.0, 1, alpha=1.0, beta=beta, temperature=1.0))


def _rld(beta: float) -> Settings:
    fields = {"alpha": 1.0, "beta": beta, "temperature": 1.0, "confidence_temperature": 1.0}
    return Settings(total("rld", 1.0, 1, **fields))


def _gkl(alpha: float, beta: float, gamma: float) -> Settings:
    weights = {"alpha": alpha, "beta": beta, "gamma": gamma, "weights_of": "class_means"}
    return Settings(total("gkl", 1.0, 5, **weights, temperature=1.0, weights_temperature=1.0))


def _mlkd(learning_rate: float) -> Settings:
    losses = mlkd_total(0.5, 0.5, [1.0, 2.0, 3.0, 5.0, 6.0])
    return Settings(losses, {**TWO_VIEWS, "optimizer": {"learning_rate": learning_rate}})


def _wttm(weight: float, gamma: float) -> Settings:
    fields = {"weight": weight, "temperature": round(1 / gamma, 6)}
    return Settings(total("wttm", 1.0, 0, **fields), HALF_BATCH)


def _ls(ce_weight: float) -> Settings:
    return Settings(total("ls", ce_weight, 0, weight=9.0, temperature=2.0))


NKD = total("nkd", 1.0, 0, gamma=1.5, temperature=1.0)
CLIPPED = {**HALF_BATCH, "training": {**HALF_BATCH["training"], "max_grad_norm": 5.0}}
EA_KD = {
    **total("kd", 1.0, 0, weight=0.5, temperature=1.0),
    "entropy_weights": {"temperature": 2.0},
}
METHODS = (
    Method(
        "none",
        "arXiv 2203.08679",
        "labels only, the student alone",
        for_pairs(IMAGENET_PAIRS, {"ce": {"weight": 1.0}, "warmup_epochs": 0}),
    ),
    Method(
        "kd",
        "arXiv 2203.08679",
        "knowledge distillation",
        for_pairs(IMAGENET_PAIRS, total("kd", 0.5, 0, weight=0.5, temperature=1.0)),
    ),
    Method(
        "dtkd",
        "not published",
        "dynamic temperatures, weights of CIFAR-100; a start for a sweep",
        for_pairs(IMAGENET_PAIRS, dtkd_total(3.0, 1.0, "max", 8)),
    ),
    Method(
        "dtkd-logsumexp",
        "not published",
        "dynamic temperatures, solved exactly; a start for a sweep",
        for_pairs(IMAGENET_PAIRS, dtkd_total(3.0, 1.0, "logsumexp", 8)),
    ),
    Method(
        "dkd",
        "arXiv 2203.08679",
        "decoupled knowledge distillation",
        {R18: _dkd(0.5), MV1: _dkd(2.0)},
    ),
    Method(
        "ctkd",
        "arXiv 2211.16231",
        "learned temperature",
        {
            R18: Settings(
                ctkd_total(1.0, 1.0, 5),
                {**HALF_BATCH, "schedule": {"num_epochs": 120}},
            )
        },
    ),
    Method(
        "ls",
        "arXiv 2403.01427",
        "KD of standardized logits",
        {R18: _ls(1.0), MV1: _ls(0.5)},
    ),
    Method(
        "normkd",
        "arXiv 2308.00520",
        "temperatures from the logits' standard deviation",
        for_pairs(IMAGENET_PAIRS, total("normkd", 0.5, 0, weight=0.5, scale=1.0)),
    ),
    Method(
        "wttm",
        "arXiv 2402.11148",
        "temperature of the teacher alone, weighted",
        {R18: _wttm(1.6, 0.8), MV1: _wttm(3.5, 0.7)},
    ),
    Method(
        "nkd",
        "arXiv 2303.13005",
        "normalized loss; its teachers are OpenMMLab's",
        {R18: Settings(NKD, HALF_BATCH), MV1: Settings(NKD, CLIPPED)},
    ),
    Method(
        "dist",
        "arXiv 2205.10536",
        "correlations",
        for_pairs(
            IMAGENET_PAIRS,
            total("dist", 1.0, 0, beta=2.0, gamma=2.0, temperature=1.0),
            **HALF_BATCH,
        ),
    ),
    Method(
        "mlkd",
        "CVPR 2023",
        "samples, pairs of samples and of classes; two views, as in the paper",
        {R18: _mlkd(0.1), MV1: _mlkd(0.2)},
    ),
    Method(
        "rld",
        "arXiv 2408.07703",
        "dkd without the teacher's errors",
        {R18: _rld(0.5), MV1: _rld(2.0)},
    ),
    Method(
        "ea-kd",
        "arXiv 2311.13621",
        "kd with weights from entropies",
        {R18: Settings(EA_KD)},
    ),
    Method(
        "gkl",
        "arXiv 2503.08038",
        "generalized KL divergence",
        {R18: _gkl(1.0, 0.5, 0.6), MV1: _gkl(4.0, 1.0, 0.5)},
    ),
    Method(
        "wkd",
        "arXiv 2412.08139",
        "Wasserstein distance; cost from the classifier, in its code from features",
        {
            R18: Settings(wkd_total(30.0, 2.0, 1.0, 0), HALF_BATCH),
            MV1: Settings(wkd_total(25.0, 2.0, 2.0, 0), HALF_BATCH),
        },
    ),
    Method(
        "crld",
        "arXiv 2505.15133",
        "within and across two views (arXiv 2412.16493)",
        for_pairs(IMAGENET_PAIRS, crld_total(2.0, 2.0, 1.0), **TWO_VIEWS),
    ),
)
