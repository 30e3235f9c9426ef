"""Which visual tokens of an image are masked at a step (arXiv:2410.14332v3, section 3.2)."""

import hashlib

import numpy as np
import numpy.typing as npt


def draw_masked_positions(
    num_visual: int, num_masked: int, *, seed: int, step: int, sample_id: str, image_index: int
) -> npt.NDArray[np.bool_]:
    """Draw the masked positions of one image, uniformly without replacement.

    The draw depends on the arguments alone, so a resumed run or another number of ranks masks the same tokens. It takes
    Philox's raw bits, whose stream numpy keeps in all its versions; it does not promise that of `Generator.choice`.

    Args:
        num_visual: n, visual tokens of an image.
        num_masked: m, how many of them are masked.
        seed: The run's seed.
        step: The optimizer step.
        sample_id: The sample that holds the image.
        image_index: Position of the image in its sample.
    Returns:
        [n] bool, True at the m masked positions.
    """
    digest = hashlib.sha256(repr((seed, step, sample_id, image_index)).encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(num_visual)
    masked = np.zeros(num_visual, dtype=np.bool_)
    masked[np.argsort(bits, kind="stable")[:num_masked]] = True
    return masked
