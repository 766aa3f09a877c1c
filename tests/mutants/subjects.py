"""The files that are mutated, each with the unit tests of its subject."""

SUBJECTS: dict[str, tuple[str, ...]] = {
    "service/distillation/logits.py": ("distillation",),
    "service/distillation/losses.py": ("distillation",),
    "service/distillation/objective.py": ("distillation",),
    "service/distillation/temperature.py": ("distillation",),
    "data_pipeline/order.py": ("data_pipeline/test_order.py", "data_pipeline/test_held_out.py"),
    "service/training/gradient.py": ("training",),
    "service/training/batchnorm.py": ("training",),
    "service/training/checkpoint.py": ("training", "test_moved_folders.py"),
    "service/training/metrics.py": ("training",),
    "service/run/journal.py": ("run",),
    "service/plan.py": ("test_plan.py",),
    "service/sweep/study.py": ("sweep",),
    "service/sweep/halving.py": ("sweep",),
    "service/sweep/confirm.py": ("sweep",),
    "service/sweep/comparison.py": ("sweep",),
    "service/models/weights.py": ("models",),
    "service/spec/rules.py": ("spec",),
    "service/spec/data_rules.py": ("spec",),
    "service/sweep/rules.py": ("sweep",),
}
