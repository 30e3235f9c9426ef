import io
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from croc_cli.data.image import (
    BadImageError,
    BytesImage,
    PathImage,
    _square_side,
    build_image_processor,
    open_image,
    process_images,
)

VICTOR = Path(__file__).parent / "golden" / "victor"
CLIP = {
    "size": {"shortest_edge": 28},
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
SIZES = [(28, 28), (40, 31), (31, 40), (90, 17), (5, 6), (1, 9), (101, 100)]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def llava_pixels(image: Image.Image, *, pad: bool) -> np.ndarray:
    """LLaVA's own steps, written down from their description."""
    mean, std = (np.array(CLIP[key], dtype=np.float32) for key in ("image_mean", "image_std"))
    width, height = image.size
    if pad and width != height:
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in CLIP["image_mean"]))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        image = square
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(28 * width / short), int(28 * height / short)), Image.Resampling.BICUBIC)
    left, top = (image.width - 28) // 2, (image.height - 28) // 2
    image = image.crop((left, top, left + 28, top + 28))
    pixels = (np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_llavas_own_recipe(aspect: str, size: tuple[int, int]) -> None:
    image = noise(size)
    pixels = process_images([image], build_image_processor(CLIP, aspect))[0].numpy()  # type: ignore[arg-type]
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, llava_pixels(image, pad=aspect == "pad"))


@pytest.mark.parametrize("aspect", ["pad", "square", "squeeze"])
def test_the_short_way_to_pixels_gives_the_processors_own(aspect: str) -> None:
    processor = build_image_processor(CLIP, aspect)  # type: ignore[arg-type]
    assert _square_side(processor) == 28
    for size in [*SIZES, (500, 375), (336, 500), (3, 200)]:
        expected = processor([noise(size)], return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(process_images([noise(size)], processor).numpy(), expected)


def test_an_unusual_processor_goes_its_own_way() -> None:
    processor = build_image_processor({**CLIP, "do_normalize": False}, "pad")
    assert _square_side(processor) is None
    assert process_images([noise((40, 30))], processor).max() <= 1


def test_the_padding_is_the_mean_colour() -> None:
    wide = Image.new("RGB", (56, 28), (255, 0, 0))
    pixels = process_images([wide], build_image_processor(CLIP, "pad"))[0].numpy()
    corner = pixels[:, 0, 0] * np.array(CLIP["image_std"]) + np.array(CLIP["image_mean"])
    np.testing.assert_allclose(corner * 255, [122, 116, 104], atol=1e-3)


@pytest.mark.parametrize(("picture", "aspect"), [("square", "squeeze"), ("pad", "pad")])
@pytest.mark.parametrize("number", [0, 1])
def test_pictures_of_victors_code_come_out_bit_by_bit(picture: str, aspect: str, number: int, tmp_path: Path) -> None:
    """Its processor is bicubic, whatever SigLIP2's own says, and squeezes in stage 1."""
    golden = load_file(VICTOR / "images.safetensors")
    image = Image.fromarray(golden[f"picture_{number}"].numpy())
    processor = build_image_processor(VICTOR, aspect, resampling="bicubic")  # type: ignore[arg-type]
    processor.save_pretrained(tmp_path)
    for own in (processor, AutoImageProcessor.from_pretrained(tmp_path, backend="pil")):
        assert torch.equal(process_images([image], own)[0], golden[f"{picture}_{number}"])
        stock = own([image], return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(stock, golden[f"{picture}_{number}"].numpy())


def test_a_resampling_stays_through_every_stage_and_the_towers_own_is_taken_otherwise(tmp_path: Path) -> None:
    image = noise((40, 31))
    build_image_processor(VICTOR, "squeeze", resampling="bicubic").save_pretrained(tmp_path)
    for aspect in ("pad", "square", "squeeze"):
        later = build_image_processor(tmp_path, aspect)  # type: ignore[arg-type]
        own = build_image_processor(VICTOR, aspect)  # type: ignore[arg-type]
        wanted = build_image_processor(VICTOR, aspect, resampling="bicubic")  # type: ignore[arg-type]
        assert torch.equal(process_images([image], later), process_images([image], wanted))
        assert not torch.equal(process_images([image], later), process_images([image], own))
        assert (later.resample, own.resample) == (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("aspect", ["pad", "square", "squeeze"])
def test_a_saved_processor_gives_the_same_pixels(aspect: str, tmp_path: Path) -> None:
    processor = build_image_processor(CLIP, aspect)  # type: ignore[arg-type]
    processor.save_pretrained(tmp_path)
    opened = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    again = build_image_processor(tmp_path, aspect)  # type: ignore[arg-type]
    for size in SIZES:
        expected = process_images([noise(size)], processor)
        assert (process_images([noise(size)], opened) == expected).all()
        assert (process_images([noise(size)], again) == expected).all()


def saved(image: Image.Image, kind: str, **options: object) -> BytesImage:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return BytesImage(f"picture.{kind}", buffer.getvalue())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGB", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 5), 0x8080, dtype=np.uint16))
    else:
        image = Image.new("RGB", (5, 4), (128, 128, 128)).convert(mode, palette=Image.Palette.ADAPTIVE)
    opened = open_image(saved(image, "TIFF"))
    assert (opened.mode, opened.size) == ("RGB", (5, 4))
    if mode != "1":
        assert np.abs(np.asarray(opened).astype(int) - 128).max() <= 3


def test_transparency_is_laid_on_white_and_no_warning_leaks() -> None:
    palette = Image.new("RGBA", (4, 4), (200, 0, 0, 0)).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(saved(palette, "PNG", transparency=b"\x00\x80"))
        transparent = open_image(saved(Image.new("RGBA", (4, 4), (200, 10, 20, 0)), "PNG"))
    assert transparent.getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(animation).getpixel((0, 0)) == (255, 0, 0)


def test_llavas_reading_leaves_orientation_and_drops_alpha() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    phone = saved(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert open_image(phone).size == (4, 8)
    assert open_image(replace(phone, reading="llava")).size == (8, 4)
    clear = saved(Image.new("RGBA", (4, 4), (200, 10, 20, 0)), "PNG")
    assert open_image(replace(clear, reading="llava")).getpixel((0, 0)) == (200, 10, 20)


def test_what_cannot_be_opened_is_named_with_its_reason(tmp_path: Path) -> None:
    whole = saved(noise((64, 64)), "JPEG").content
    cases = {
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "empty.jpg": (b"", "not an image"),
        "page.jpg": (b"<!DOCTYPE html>", "not an image"),
        "broken.png": (saved(noise((64, 64)), "PNG").content[:200], ""),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadImageError, match=name) as caught:
            open_image(PathImage(path))
        assert reason in caught.value.reason
        assert caught.value.name == str(path)
    with pytest.raises(BadImageError, match="no such file"):
        open_image(PathImage(tmp_path / "none.jpg"))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = saved(Image.new("L", (300, 300)), "PNG")
    small_limit = BytesImage(image.name, image.content, max_pixels=80_000)
    with pytest.raises(BadImageError, match="300 × 300 pixels, more than 80000"):
        open_image(small_limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(BadImageError, match="exceeds limit"):
        open_image(image)


def test_a_line_of_an_image_is_refused() -> None:
    with pytest.raises(BadImageError, match="one side more than 200 times the other"):
        open_image(saved(Image.new("RGB", (1, 201)), "PNG"))
    assert open_image(saved(Image.new("RGB", (1, 200)), "PNG")).size == (1, 200)


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg", "truncated")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")
