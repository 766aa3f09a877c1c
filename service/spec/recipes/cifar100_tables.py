"""The numbers that methods set for each pair of CIFAR-100, by the pairs' short names.

All are from configurations and commands in the public code of the methods' authors.
"""

# The weights of DTKD and of KD beside it, where they are not 3 and 1.
DTKD_WEIGHTS = {
    "resnet56-resnet20": (1.0, 0.5),
    "resnet110-resnet32": (1.0, 0.5),
    "wrn_40_2-wrn_40_1": (1.0, 0.5),
    "wrn_40_2-shufflenet_v1": (2.0, 0.5),
    "resnet50-mobilenet_v2": (3.0, 2.0),
}
# DKD's beta for its authors' pairs; for the others, in the code of RLD.
DKD_BETAS = {
    "resnet56-resnet20": 2.0,
    "resnet110-resnet32": 2.0,
    "resnet32x4-resnet8x4": 8.0,
    "wrn_40_2-wrn_16_2": 6.0,
    "wrn_40_2-wrn_40_1": 6.0,
    "vgg13-vgg8": 6.0,
    "vgg13-mobilenet_v2": 6.0,
    "resnet50-mobilenet_v2": 8.0,
    "resnet32x4-shufflenet_v1": 8.0,
    "resnet32x4-shufflenet_v2": 8.0,
    "wrn_40_2-shufflenet_v1": 8.0,
}
FURTHER_DKD_BETAS = {
    "resnet110-resnet20": 2.0,
    "resnet32x4-wrn_16_2": 8.0,
    "resnet32x4-wrn_40_2": 8.0,
    "wrn_40_2-resnet8x4": 6.0,
    "wrn_40_2-mobilenet_v2": 6.0,
}
# Logit standardization: temperature and weight of KD; temperature, weight and beta of DKD.
LS_SETTINGS = {
    "resnet56-resnet20": (2.0, 9.0),
    "resnet110-resnet20": (4.0, 12.0),
    "resnet110-resnet32": (2.0, 9.0),
    "resnet32x4-resnet8x4": (2.0, 9.0),
    "wrn_40_2-wrn_16_2": (2.0, 9.0),
    "wrn_40_2-wrn_40_1": (2.0, 9.0),
    "vgg13-vgg8": (3.0, 9.0),
    "vgg13-mobilenet_v2": (3.0, 9.0),
    "resnet50-mobilenet_v2": (3.0, 1.0),
    "resnet32x4-shufflenet_v2": (2.0, 9.0),
    "resnet32x4-wrn_16_2": (3.0, 9.0),
    "resnet32x4-wrn_40_2": (3.0, 9.0),
    "wrn_40_2-resnet8x4": (2.0, 9.0),
    "wrn_40_2-mobilenet_v2": (3.0, 9.0),
}
LS_DKD_SETTINGS = {
    "resnet56-resnet20": (3.0, 18.0, 2.0),
    "resnet110-resnet20": (2.0, 15.0, 2.0),
    "resnet110-resnet32": (2.0, 15.0, 2.0),
    "resnet32x4-resnet8x4": (2.0, 9.0, 8.0),
    "wrn_40_2-wrn_16_2": (2.0, 12.0, 2.0),
    "wrn_40_2-wrn_40_1": (2.0, 12.0, 2.0),
    "vgg13-vgg8": (2.0, 15.0, 2.0),
    "vgg13-mobilenet_v2": (3.0, 9.0, 2.0),
    "resnet50-mobilenet_v2": (2.0, 15.0, 2.0),
    "resnet32x4-shufflenet_v2": (2.0, 9.0, 8.0),
    "resnet32x4-wrn_16_2": (2.0, 9.0, 2.0),
    "resnet32x4-wrn_40_2": (2.0, 9.0, 8.0),
    "wrn_40_2-resnet8x4": (2.0, 18.0, 2.0),
    "wrn_40_2-mobilenet_v2": (2.0, 15.0, 2.0),
}
# GKL: alpha, beta, gamma, and whose predictions weight the classes.
GKL_SETTINGS = {
    "resnet56-resnet20": (1.0, 4.0, 0.2, "class_means"),
    "resnet110-resnet32": (1.0, 4.0, 0.1, "samples"),
    "resnet32x4-resnet8x4": (1.0, 16.0, 0.05, "class_means"),
    "wrn_40_2-wrn_16_2": (3.0, 20.0, 0.3, "samples"),
    "wrn_40_2-wrn_40_1": (1.0, 12.0, 0.3, "samples"),
    "vgg13-vgg8": (1.0, 8.0, 0.2, "class_means"),
    "vgg13-mobilenet_v2": (4.0, 12.0, 0.1, "class_means"),
    "resnet50-mobilenet_v2": (1.0, 8.0, 0.05, "class_means"),
    "resnet32x4-shufflenet_v1": (1.0, 8.0, 0.0, "class_means"),
    "resnet32x4-shufflenet_v2": (3.0, 12.0, 0.1, "class_means"),
    "wrn_40_2-shufflenet_v1": (1.0, 8.0, 0.0, "samples"),
}
