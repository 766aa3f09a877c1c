"""The published settings for CIFAR-100 of the methods that compare two views of each image."""

from service.spec.recipes.pairs import Content
from service.spec.recipes.settings import (
    TWO_VIEWS,
    Method,
    Settings,
    crld_total,
    mlkd_total,
    schedule,
)

# MLKD: epochs and learning rate, in its authors' code and in that of logit standardization.
# The learning rate falls after epochs 150, 180 and 210 however many there are.
MLKD_SCHEDULES = {
    "resnet56-resnet20": (240, 0.025),
    "resnet110-resnet32": (240, 0.025),
    "resnet32x4-resnet8x4": (240, 0.025),
    "wrn_40_2-wrn_16_2": (240, 0.025),
    "wrn_40_2-wrn_40_1": (240, 0.025),
    "vgg13-vgg8": (240, 0.025),
    "vgg13-mobilenet_v2": (480, 0.01),
    "resnet50-mobilenet_v2": (480, 0.01),
    "resnet32x4-shufflenet_v1": (960, 0.01),
    "resnet32x4-shufflenet_v2": (960, 0.01),
    "wrn_40_2-shufflenet_v1": (480, 0.01),
}
# And the weight: 9 unless the name of a published log has another.
LS_MLKD_SETTINGS = {
    "resnet56-resnet20": (480, 0.025, 9.0),
    "resnet110-resnet20": (480, 0.025, 9.0),
    "resnet110-resnet32": (480, 0.025, 9.0),
    "resnet32x4-resnet8x4": (480, 0.025, 9.0),
    "wrn_40_2-wrn_16_2": (480, 0.025, 9.0),
    "wrn_40_2-wrn_40_1": (480, 0.025, 9.0),
    "vgg13-vgg8": (480, 0.01, 6.0),
    "vgg13-mobilenet_v2": (480, 0.01, 6.0),
    "resnet50-mobilenet_v2": (480, 0.01, 9.0),
    "resnet32x4-shufflenet_v2": (960, 0.01, 6.0),
    "resnet32x4-wrn_16_2": (480, 0.025, 9.0),
    "resnet32x4-wrn_40_2": (480, 0.025, 9.0),
    "wrn_40_2-resnet8x4": (480, 0.025, 9.0),
    "wrn_40_2-mobilenet_v2": (480, 0.005, 9.0),
}
# CRLD: the weight of the losses within a view. Its authors' code is not public; these are the
# configurations of CRLD in the code of arXiv 2505.15133.
CRLD_WEIGHTS = {
    "resnet56-resnet20": 0.5,
    "resnet110-resnet20": 1.0,
    "resnet110-resnet32": 1.0,
    "resnet32x4-resnet8x4": 2.0,
    "wrn_40_2-wrn_16_2": 2.0,
    "wrn_40_2-wrn_40_1": 0.5,
    "vgg13-vgg8": 2.0,
    "vgg13-mobilenet_v2": 2.0,
    "resnet50-mobilenet_v2": 2.0,
    "resnet32x4-shufflenet_v2": 0.5,
    "resnet32x4-wrn_16_2": 2.0,
    "resnet32x4-wrn_40_2": 2.0,
    "wrn_40_2-resnet8x4": 1.0,
    "wrn_40_2-mobilenet_v2": 2.0,
}
# Published: the base temperature, and 2, 3, 5 and 6. With standardization the base is 2 as well.
TEMPERATURES = [2.0, 3.0, 4.0, 5.0, 6.0]
LS_TEMPERATURES = [2.0, 2.0, 3.0, 5.0, 6.0]


def _mlkd(num_epochs: int, learning_rate: float, losses: Content) -> Settings:
    return Settings(losses, {**TWO_VIEWS, **schedule(num_epochs, learning_rate)})


METHODS = (
    Method(
        "mlkd",
        "CVPR 2023",
        "samples, pairs of samples and of classes; two views, as in the paper",
        {
            pair: _mlkd(*values, mlkd_total(0.1, 0.9, TEMPERATURES))
            for pair, values in MLKD_SCHEDULES.items()
        },
    ),
    Method(
        "mlkd-ls",
        "arXiv 2403.01427",
        "mlkd of standardized logits",
        {
            pair: _mlkd(
                num_epochs,
                learning_rate,
                mlkd_total(0.1, weight, LS_TEMPERATURES, standardize=True),
            )
            for pair, (num_epochs, learning_rate, weight) in LS_MLKD_SETTINGS.items()
        },
    ),
    Method(
        "crld",
        "arXiv 2505.15133",
        "within and across two views (arXiv 2412.16493)",
        {
            pair: Settings(crld_total(1.0, within, 4.0), TWO_VIEWS)
            for pair, within in CRLD_WEIGHTS.items()
        },
    ),
)
