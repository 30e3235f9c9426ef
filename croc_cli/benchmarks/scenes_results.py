"""From the saved predictions of the `scenes` benchmark to its entry in results.json; needs no model."""

from collections.abc import Mapping, Sequence
from typing import Any

from croc_cli.benchmarks.scenes import BLIND_BASELINES, accuracy_by_type, scene_scores

_MEAN = "mean"


def score_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score the rows of predictions/scenes.jsonl.

    Args:
        rows: Evaluation records with the answers `text` and, for questions, `another_picture` and `no_picture`.

    Returns:
        `accuracy` by type and `mean_accuracy`; `baselines` by name, each by type; `best_blind`, the better of the
        question-blind baselines by type; accuracy on held-out pairs; `caption_recall`; `num_questions`.
    """

    def answers(variant: str) -> dict[str, str]:
        return {row["question_id"]: row[variant] for row in rows if variant in row}

    scores = scene_scores(rows, answers("text"), answers("another_picture"))
    baselines = {name: dict(values) for name, values in scores["baselines"].items()}
    baselines["no_picture"] = accuracy_by_type(rows, answers("no_picture"))
    accuracy = dict(scores["accuracy"])
    return {
        "mean_accuracy": accuracy.pop(_MEAN),
        "accuracy": accuracy,
        "baselines": {name: _without_mean(values) for name, values in baselines.items()},
        "best_blind": {kind: max(baselines[name][kind] for name in BLIND_BASELINES) for kind in accuracy},
        "accuracy_on_held_out_pairs": _without_mean(scores["accuracy_on_held_out_pairs"]),
        "caption_recall": scores.get("caption_recall"),
        "num_questions": sum(scores["num_questions"].values()),
    }


def _without_mean(values: Mapping[str, float]) -> dict[str, float]:
    return {kind: value for kind, value in values.items() if kind != _MEAN}
