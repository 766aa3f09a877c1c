"""The methods' published settings for CIFAR-100: the losses of one view of each image.

Those of two views are in ``cifar100_views``. All are from the authors' code unless noted.
"""

from service.spec.recipes.cifar100_tables import (
    DKD_BETAS,
    DTKD_WEIGHTS,
    FURTHER_DKD_BETAS,
    GKL_SETTINGS,
    LS_DKD_SETTINGS,
    LS_SETTINGS,
)
from service.spec.recipes.pairs import CIFAR100_PAIRS, COMMON_PAIRS, Content
from service.spec.recipes.settings import (
    Method,
    Settings,
    ctkd_total,
    dtkd_total,
    for_pairs,
    total,
    wkd_total,
)

RLD_SOURCE = "arXiv 2408.07703"
DIST_PAIRS = (*DKD_BETAS, "resnet110-resnet20")
LS_PAIRS = tuple(pair for pair in CIFAR100_PAIRS if pair.short_name in LS_SETTINGS)


def _dtkd(sharpness: str) -> dict[str, Settings]:
    return {
        pair: Settings(dtkd_total(*DTKD_WEIGHTS.get(pair, (3.0, 1.0)), sharpness, 20))
        for pair in DKD_BETAS
    }


def _dkd(beta: float, **fields: object) -> Content:
    return total("dkd", 1.0, 20, **{"alpha": 1.0, "beta": beta, "temperature": 4.0} | fields)


def _gkl(alpha: float, beta: float, gamma: float, weights_of: str) -> Settings:
    weights = {"alpha": alpha, "beta": beta, "gamma": gamma, "weights_of": weights_of}
    return Settings(total("gkl", 1.0, 20, **weights, temperature=4.0, weights_temperature=4.0))


STANDARDIZED: Content = {"temperature": 2.0, "standardize": True}
KD = total("kd", 0.1, 0, weight=0.9, temperature=4.0)
METHODS = (
    Method(
        "none",
        "arXiv 1910.10699",
        "labels only, the student alone",
        for_pairs(CIFAR100_PAIRS, {"ce": {"weight": 1.0}, "warmup_epochs": 0}),
    ),
    Method("kd", "arXiv 1910.10699", "knowledge distillation", for_pairs(CIFAR100_PAIRS, KD)),
    Method("dtkd", "arXiv 2404.12711", "dynamic temperatures, as its code", _dtkd("max")),
    Method(
        "dtkd-norm",
        "arXiv 2404.12711",
        "dynamic temperatures as its text has them; weights of dtkd",
        _dtkd("norm"),
    ),
    Method(
        "dtkd-logsumexp",
        "not published",
        "dynamic temperatures, solved exactly; weights of dtkd",
        _dtkd("logsumexp"),
    ),
    Method(
        "dkd",
        "arXiv 2203.08679",
        "decoupled knowledge distillation",
        {pair: Settings(_dkd(beta)) for pair, beta in DKD_BETAS.items()}
        | {pair: Settings(_dkd(b), {}, RLD_SOURCE) for pair, b in FURTHER_DKD_BETAS.items()},
    ),
    Method(
        "tckd",
        "not published",
        "the half of dkd about the label's class, with weight 1; an ablation",
        for_pairs(COMMON_PAIRS, total("tckd", 1.0, 20, weight=1.0, temperature=4.0)),
    ),
    Method(
        "nckd",
        "not published",
        "the half of dkd about the other classes, with weight 1; an ablation",
        for_pairs(COMMON_PAIRS, total("nckd", 1.0, 20, weight=1.0, temperature=4.0)),
    ),
    Method(
        "dkd-dtkd",
        "not published",
        "weights of dkd at dynamic temperatures; a start for a sweep",
        {
            pair: Settings(_dkd(beta, temperature={"kind": "dynamic", "base_temperature": 4.0}))
            for pair, beta in DKD_BETAS.items()
        },
    ),
    Method(
        "ctkd",
        "arXiv 2211.16231",
        "learned temperature",
        for_pairs(CIFAR100_PAIRS, ctkd_total(0.1, 0.9, 10)),
    ),
    Method(
        "ls",
        "arXiv 2403.01427",
        "KD of standardized logits",
        {
            pair: Settings(total("ls", 0.1, 0, weight=weight, temperature=temperature))
            for pair, (temperature, weight) in LS_SETTINGS.items()
        },
    ),
    Method(
        "dkd-ls",
        "arXiv 2403.01427",
        "dkd of standardized logits",
        {
            pair: Settings(_dkd(beta, weight=weight, temperature=temperature, standardize=True))
            for pair, (temperature, weight, beta) in LS_DKD_SETTINGS.items()
        },
    ),
    Method(
        "ctkd-ls",
        "arXiv 2403.01427",
        "ctkd of standardized logits",
        for_pairs(LS_PAIRS, ctkd_total(0.1, 9.0, 10, standardize=True)),
    ),
    Method(
        "normkd",
        "arXiv 2308.00520",
        "temperatures from the logits' standard deviation",
        for_pairs(COMMON_PAIRS, total("normkd", 0.1, 0, weight=0.9, scale=2.0)),
    ),
    Method(
        "ttm",
        "arXiv 2402.11148",
        "temperature of the teacher alone",
        {"vgg13-vgg8": Settings(total("ttm", 1.0, 0, weight=45.0, temperature=10.0))},
    ),
    Method(
        "dist",
        "arXiv 2205.10536",
        "correlations",
        for_pairs(
            [pair for pair in CIFAR100_PAIRS if pair.short_name in DIST_PAIRS],
            total("dist", 1.0, 0, beta=2.0, gamma=2.0, temperature=4.0),
        ),
    ),
    Method(
        "rld",
        RLD_SOURCE,
        "dkd without the teacher's errors; defaults of the code for all pairs",
        for_pairs(
            LS_PAIRS,
            total("rld", 1.0, 20, alpha=1.0, beta=8.0, temperature=4.0, confidence_temperature=1.0),
        ),
    ),
    Method(
        "ea-kd",
        "arXiv 2311.13621",
        "kd with weights from entropies; its code divides by 100, not ln 100",
        {"resnet32x4-resnet8x4": Settings({**KD, "entropy_weights": {"temperature": 3.0}})},
    ),
    Method(
        "gkl",
        "arXiv 2503.08038",
        "generalized KL divergence",
        {pair: _gkl(*values) for pair, values in GKL_SETTINGS.items()},
    ),
    Method(
        "wkd",
        "arXiv 2412.08139",
        "Wasserstein distance; cost from the classifier, in its code from features",
        {
            "resnet32x4-resnet8x4": Settings(wkd_total(600.0, 8.0, 1.0, 150)),
            "wrn_40_2-shufflenet_v1": Settings(wkd_total(200.0, 6.0, 1.0, 150)),
        },
    ),
    Method(
        "ldrld",
        "arXiv 2507.15911",
        "pairs of the student's best classes",
        {
            "resnet32x4-resnet8x4": Settings(
                total("ldrld", 1.0, 0, alpha=10.5, beta=7.0, temperature=4.0, top_k=7),
                {"schedule": {"warmup_epochs": 20}},
            )
        },
    ),
    Method(
        "abkd",
        "arXiv 2505.04560",
        "alpha-beta divergence",
        {
            "resnet56-resnet20": Settings(
                total("abkd", 1.0, 0, weight=32.0, alpha=0.8, beta=0.3, temperature=4.0)
            )
        },
    ),
    Method(
        "abkd-ls",
        "arXiv 2505.04560",
        "abkd of standardized logits; its weight of 9 x temperature^2",
        {
            "resnet56-resnet20": Settings(
                total("abkd", 0.1, 0, weight=36.0, alpha=0.9, beta=0.3, **STANDARDIZED)
            )
        },
    ),
)
