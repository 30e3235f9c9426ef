"""When bad images and samples that train nothing are too many for a run to be worth its time."""

from croc_cli.train.state import TrainerState
from croc_cli.train.step_report import StepCounts

LEAST_IMAGES = 4
"""Images of a step, or since the start, of which none may open without stopping the run; fewer may be chance."""
EMPTY_STEPS = 20
"""Steps without a single trained token since the start after which a run stops."""

_FOLDER_HINT = "an image folder one level off looks like this; `croc data verify` names every image that does not open"
Failure = tuple[str, str]
"""Message and hint."""


def bad_image_failure(
    state: TrainerState, counts: StepCounts, limit: int | str, *, last: tuple[str, str, str]
) -> Failure | None:
    """Return why a run must stop for its bad images, or None; equal on all ranks.

    Args:
        state: Before the step.
        counts: Of the step.
        limit: `data.max_bad_images`: a number of images, or a share of those seen so far, such as `5%`. By share, one
            bad image is always allowed.
        last: Sample, image and reason of the last one.
    """
    bad, seen = state.bad_images + counts.bad_images, state.images + counts.images_shown
    allowed = max(1.0, float(limit[:-1]) / 100 * seen) if isinstance(limit, str) else limit
    sample_id, name, reason = last
    named = f"the last one was {name} of sample {sample_id} ({reason})"
    if bad > allowed:
        of_seen = f" of {seen}" if isinstance(limit, str) else ""
        return (
            f"{bad}{of_seen} images failed to open, more than data.max_bad_images = {limit}; {named}",
            "fix the images, or allow more with data.max_bad_images",
        )
    of_step = counts.images_shown if counts.bad_images == counts.images_shown else 0
    of_all = seen if bad == seen else 0
    if max(of_step, of_all) >= LEAST_IMAGES:
        which = f"{of_all} images so far" if of_all else f"{of_step} images of step {state.step + 1}"
        return f"none of the {which} opened; {named}", _FOLDER_HINT
    return None


def nothing_trained_failure(state: TrainerState, *, num_steps: int) -> Failure | None:
    """Return why a run that has trained nothing worth keeping must stop, or None; looked at after a step."""
    if state.has_trained or state.step < min(num_steps, EMPTY_STEPS):
        return None
    if state.trained:
        return f"none of the {state.images} images of {state.step} steps opened", _FOLDER_HINT
    reasons = [f"{state.dropped} samples had nothing left to train, such as samples cut before their answer"]
    if state.bad_images:
        reasons.append(f"{state.bad_images} images did not open")
    return (
        f"no token was trained in {state.step} steps: {', and '.join(reasons)}",
        "raise the stage's max_length, or see `croc data verify` for what is wrong with the samples",
    )
