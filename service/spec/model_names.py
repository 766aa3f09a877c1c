"""The names a spec may give a model. An allow-list: a name is never an import string.

Imports no torch, so that a misspelt name is found before anything starts.
"""

import difflib

CIFAR_PREFIX = "cifar:"
IMAGENET_PREFIX = "imagenet:"
TIMM_PREFIX = "timm:"


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


TORCHVISION_MODELS = frozenset(
    words("""
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l
efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf
regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf
regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d
resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s
swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14
vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
""")
)

AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
"""Networks of torchvision with auxiliary heads, which are turned off: they return tuples. These two
also have the option transform_input.
"""

CIFAR_MODELS = frozenset(
    words("""
resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4 resnet50
wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2 vgg8 vgg13 mobilenet_v2 shufflenet_v1 shufflenet_v2 tiny_cnn
small_cnn
""")
)

IMAGENET_MODELS = frozenset({"mobilenet_v1"})
"""Networks of the distillation literature for ImageNet that torchvision lacks."""


def model_name_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with a model's name and what would be right; None if it can be built.

    Names of timm are judged by timm itself when the model is built.
    """
    if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX):
        return None
    known = sorted(TORCHVISION_MODELS)
    known += sorted(CIFAR_PREFIX + model for model in CIFAR_MODELS)
    known += sorted(IMAGENET_PREFIX + model for model in IMAGENET_MODELS)
    if name in known:
        return None
    prefixed = [model for model in known if model.endswith(f":{name}")]
    close = prefixed or difflib.get_close_matches(name, known, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else (
            "use a torchvision classifier (resnet18), cifar:NAME (cifar:resnet20), "
            "imagenet:mobilenet_v1 or timm:NAME"
        )
    )
    return f"is {name!r}, not a known model", hint
