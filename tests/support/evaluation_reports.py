"""An evaluation's report with made-up figures."""

from service.evaluate.report import (
    ClassAccuracy,
    Confusion,
    CorruptedAccuracy,
    DataFacts,
    EvaluationReport,
    Interval,
    Latency,
    ModelFacts,
    ReliabilityBin,
    TeacherAgreement,
)

KINDS = ("noise", "blur", "contrast", "jpeg")


def make_report(names, **changes):
    """Of classes with these names: of 20 images each, the n-th has n right, modulo 21."""
    num_classes = len(names)
    per_class = tuple(ClassAccuracy(name, 20, n % 21 / 20) for n, name in enumerate(names))
    values = {
        "model": ModelFacts(
            origin="run r18 at its last step",
            architecture="resnet18",
            num_classes=num_classes,
            num_parameters=11_689_512,
            weights_sha256="ab" * 32,
            resize_size=256,
            crop_size=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            preprocessing_origin="the student's card",
        ),
        "data": DataFacts("/data/val.beton", "cd" * 32, 20 * num_classes, num_classes),
        "top1": Interval(0.7, 0.68, 0.72),
        "top5": Interval(0.9, 0.88, 0.92),
        "nll": 1.2345,
        "ece": 0.0432,
        "num_nonfinite": 3,
        "per_class": per_class,
        "confusions": (
            Confusion(names[0], names[1], 15, 0.75),
            Confusion(names[0], names[2], 5, 0.25),
        ),
        "reliability": (
            ReliabilityBin(0, None, None),
            ReliabilityBin(100, 0.3, 0.4),
            ReliabilityBin(300, 0.9, 0.85),
        ),
        "agreement": TeacherAgreement("torchvision:resnet34", 0.81, Interval(0.74, 0.72, 0.76)),
        "latency": (
            Latency(1, "cpu", 2, 0.02, 0.03, 50.0, 31_000_000),
            Latency(32, "cpu", 2, 0.5, 0.6, 64.0, None),
        ),
        "corruptions": tuple(
            CorruptedAccuracy(kind, strength, interval(0.7 - 0.1 * strength))
            for kind in KINDS
            for strength in range(1, 6)
        ),
        "mean_corrupted_top1": 0.4,
        "precision": "float32",
        "device": "cpu",
    }
    return EvaluationReport(**{**values, **changes})


def interval(value):
    """A share within two points."""
    return Interval(value, value - 0.02, value + 0.02)
