"""The files that are mutated, each with the unit tests of its subject."""

_DISTILLATION = ("distillation",)
_CONFIRM = ("sweep/test_sweep_confirm.py",)
_SPEC = (
    "spec/test_rule_bounds.py",
    "spec/test_spec.py",
    "spec/test_spec_data.py",
    "spec/test_spec_paths.py",
    "spec/test_milestones.py",
    "spec/test_mlflow_rules.py",
    "spec/test_weights_files.py",
    "spec/test_published_weights.py",
)

SUBJECTS: dict[str, tuple[str, ...]] = {
    "service/distillation/ensemble.py": _DISTILLATION,
    "service/distillation/fused/__init__.py": _DISTILLATION,
    "service/distillation/fused/native.py": _DISTILLATION,
    "service/distillation/logits.py": _DISTILLATION,
    "service/distillation/divergences.py": _DISTILLATION,
    "service/distillation/objective.py": _DISTILLATION,
    "service/distillation/pixels.py": _DISTILLATION,
    "service/distillation/sample_weights.py": _DISTILLATION,
    "service/distillation/softening.py": _DISTILLATION,
    "service/distillation/task.py": _DISTILLATION,
    "service/distillation/temperature.py": _DISTILLATION,
    "data_pipeline/order.py": ("data_pipeline/test_order.py",),
    "service/training/gradient.py": ("training/test_gradient.py",),
    "service/training/batchnorm.py": ("training/test_training_parts.py",),
    "service/training/checkpoint.py": (
        "training/test_training_parts.py",
        "training/test_checkpoints.py",
        "training/test_checkpoint_loading.py",
    ),
    "service/training/metrics.py": (
        "training/test_metrics.py",
        "training/test_lost_process_group.py",
    ),
    "service/run/journal.py": ("run/test_journal.py",),
    "service/pages/series.py": ("pages/test_series.py",),
    "service/run/predictions.py": ("run/test_predictions.py",),
    "service/training/prediction_recorder.py": ("training/test_prediction_recorder.py",),
    "service/evaluate/corruptions.py": ("evaluate/test_corruptions.py",),
    "service/evaluate/corrupted.py": ("evaluate/test_corrupted.py",),
    "service/tracking/promotion.py": ("tracking/test_promotion.py",),
    "service/tracking/promotion_bar.py": ("tracking/test_promotion.py",),
    "service/export/comparison.py": ("export/test_export_checks.py",),
    "service/compare/statistics.py": ("compare/test_compare_statistics.py",),
    "service/compare/summary.py": ("compare/test_compare_summary.py",),
    "service/compare/rules.py": ("compare/test_compare_rules.py",),
    "service/spec/teacher_classes.py": (
        "spec/test_teacher_classes.py",
        "spec/test_several_teachers.py",
        "spec/test_card_classes.py",
    ),
    "service/plan.py": ("test_plan.py", "models/test_weights_choice.py"),
    "service/sweep/study.py": ("sweep/test_sweep_search.py", "sweep/test_search_algorithms.py"),
    "service/sweep/halving.py": ("sweep/test_sweep_halving.py", "sweep/test_sweep_search.py"),
    "service/sweep/confirm.py": _CONFIRM,
    "service/sweep/comparison.py": _CONFIRM,
    "service/models/weights.py": ("models/test_weights_choice.py", "models/test_models.py"),
    "service/spec/loss_rules.py": ("spec/test_loss_rules.py", "spec/test_loss_sections.py"),
    "service/spec/rules.py": _SPEC,
    "service/spec/data_rules.py": _SPEC,
    "service/sweep/rules.py": ("sweep/test_sweep_spec.py", "sweep/test_sweep_space.py"),
}
"""Paths of tests are within tests/unit."""

EQUIVALENT = {
    "deepcopy=": "whether Optuna copies what is only read",
    "strict=True)": "whether lengths that are equal are checked; of JSON, see test_journal.py",
    "@dataclass(frozen=True)": "whether an assignment that does not occur is an error",
    "assert ": "an invariant",
    "ignore_errors=True": "whether what is not there can be removed",
    "warn_independent_sampling=": "whether Optuna warns, which is suppressed",
    "exclude_unset=True": "whether defaults are written out",
}
"""Lines in which a change cannot be noticed, and what it would change."""
