import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from croc_cli.benchmarks.files import Picture
from croc_cli.chat import images as chat_images
from croc_cli.data.image import BadImageError, BytesImage, PathImage, TarImage, open_image
from croc_cli.eval.predict import image_reference
from croc_cli.pictures import (
    PICTURE_FORMATS,
    PictureValuesError,
    is_transparent,
    open_picture,
    read_picture,
    upright_size,
)
from croc_cli.sources.verify.image_check import ImagePlace, check_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"


def noise(size: tuple[int, int] = (40, 24), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def read(content: bytes) -> np.ndarray:
    return np.asarray(read_picture(io.BytesIO(content)))


def tagged(kind: str, tag: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return written(Image.fromarray(noise()), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_orientation_is_applied_as_transformers_does_everywhere(kind: str, tmp_path: Path) -> None:
    for tag in range(1, 9):
        content = tagged(kind, tag)
        file = tmp_path / f"{tag}.{kind.lower()}"
        file.write_bytes(content)
        expected = load_image(str(file))
        seen = {
            "training": open_image(PathImage(file)),
            "training, in a tar": open_image(BytesImage("a", content)),
            "chat": chat_images.load_image(str(file)).picture,
            "eval": open_image(image_reference(Picture("a", data=content))),
            "benchmark": Picture("a", path=file).open(),
        }
        for who, picture in seen.items():
            assert (picture.mode, picture.size) == ("RGB", expected.size), (who, tag)
            assert picture.tobytes() == expected.tobytes(), (who, tag)
        facts = check_image(ImagePlace(str(file)))
        assert (facts.width, facts.height) == expected.size
        with Image.open(file) as opened:
            assert upright_size(opened) == expected.size


def test_a_picture_that_is_turned_is_counted(tmp_path: Path) -> None:
    (tmp_path / "phone.jpg").write_bytes(tagged("JPEG", 6))
    facts = check_image(ImagePlace(str(tmp_path / "phone.jpg")))
    assert (facts.code, facts.detail, facts.width, facts.height) == ("image-turned", "orientation 6", 24, 40)


def test_an_orientation_in_xmp_counts_and_a_damaged_tag_does_not() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert read_picture(io.BytesIO(written(Image.fromarray(noise()), "WEBP", xmp=xmp))).size == (24, 40)
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0" + b"\xff" * 60):
        damaged = written(Image.fromarray(noise()), "JPEG", exif=exif)
        assert read_picture(io.BytesIO(damaged)).size == (40, 24)


def transparent_files() -> dict[str, bytes]:
    """One file of each kind of transparency; the left half can be seen through, and is black beneath."""
    pixels = np.zeros((8, 16, 4), dtype=np.uint8)
    pixels[:, 8:] = (10, 200, 30, 255)
    whole = Image.fromarray(pixels)
    grey = Image.fromarray(pixels[..., 1])
    high = Image.fromarray(pixels[..., 1].astype(np.uint16) * 257)
    palette = grey.convert("P", palette=Image.Palette.ADAPTIVE)
    black = palette.getpixel((0, 0))
    return {
        "RGBA png": written(whole, "PNG"),
        "RGBA webp": written(whole, "WEBP", lossless=True),
        "RGBA tiff": written(whole, "TIFF"),
        "LA png": written(Image.merge("LA", (grey, whole.getchannel("A"))), "PNG"),
        "P png": written(palette, "PNG", transparency=black),
        "P gif": written(palette, "GIF", transparency=black),
        "RGB key": written(whole.convert("RGB"), "PNG", transparency=(0, 0, 0)),
        "L key": written(grey, "PNG", transparency=0),
        "1 key": written(grey.convert("1"), "PNG", transparency=0),
        "16-bit key": written(high, "PNG", transparency=0),
    }


@pytest.mark.parametrize("kind", transparent_files())
def test_transparency_is_laid_on_white_and_counted(kind: str) -> None:
    content = transparent_files()[kind]
    pixels = read(content)
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 8:, 0] != 255).all() or kind == "1 key"
    facts = check_image(ImagePlace("a", content=content * 1))
    assert facts.code in ("image-transparent", "image-tiny")
    picture = open_picture(io.BytesIO(content))
    picture.load()
    assert is_transparent(picture)


def test_half_transparent_pixels_are_mixed_with_white_and_opaque_alpha_changes_nothing() -> None:
    half = written(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), "PNG")
    assert np.abs(read(half).astype(int) - 127).max() <= 1
    opaque = noise(channels=4)
    opaque[..., 3] = 255
    content = written(Image.fromarray(opaque), "PNG")
    np.testing.assert_array_equal(read(content), opaque[..., :3])
    assert check_image(ImagePlace("a", content=content)).code == ""


def tiff_of(levels: np.ndarray, **tags: object) -> bytes:
    return written(Image.fromarray(levels), "TIFF", **tags)


def test_grey_of_more_than_8_bits_is_scaled_by_its_own_white() -> None:
    ramp = np.linspace(0, 65535, 256 * 16).reshape(16, 256)
    expected = (ramp.astype(np.uint16) // 257).astype(np.uint8)
    for content in (
        written(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        tiff_of(ramp.astype(np.uint16)),
        tiff_of(ramp.astype(np.int32)),
        b"P5 256 16 65535\n" + ramp.astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(read(content)[..., 0], expected)
    np.testing.assert_array_equal(read(tiff_of(ramp.astype(np.uint16), tiffinfo={262: 0}))[..., 0], 255 - expected)
    small = np.arange(256, dtype=np.int32).reshape(16, 16)
    np.testing.assert_array_equal(read(tiff_of(small))[..., 0], small)


def test_floating_point_is_scaled_where_its_white_is_known() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    np.testing.assert_array_equal(read(tiff_of(ramp))[..., 0].ravel(), np.arange(256))
    np.testing.assert_array_equal(read(tiff_of(ramp * 255))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        (np.full((16, 16), -0.5, dtype=np.float32), "floating-point values from -0.5"),
        (np.full((16, 16), 256, dtype=np.float32), "floating-point values from 256"),
        (np.full((16, 16), np.nan, dtype=np.float32), "floating-point values from nan"),
        (np.full((16, 16), np.inf, dtype=np.float32), "floating-point values from inf"),
        (np.full((16, 16), 70_000, dtype=np.int32), "grey values from 70000 to 70000: expected 8 or 16 bits"),
        (np.full((16, 16), -1, dtype=np.int32), "grey values from -1"),
    ],
)
def test_numbers_without_a_known_white_are_refused(levels: np.ndarray, says: str) -> None:
    content = tiff_of(levels)
    with pytest.raises(PictureValuesError, match=says):
        read(content)
    with pytest.raises(BadImageError, match=says):
        open_image(BytesImage("depth.tif", content))
    facts = check_image(ImagePlace("a", content=content))
    assert facts.code == "image-values"
    assert says in facts.detail


def test_colours_become_rgb_as_pil_converts_them() -> None:
    picture = Image.fromarray(noise())
    for mode, kind in (
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
        ("P", "PNG"),
        ("1", "PNG"),
    ):
        content = written(picture.convert(mode), kind) if mode != "LAB" else written(lab(picture), kind)
        with Image.open(io.BytesIO(content)) as opened:
            np.testing.assert_array_equal(read(content), np.asarray(opened.convert("RGB")))


def lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "RGB", "LAB"))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [kind for kind in PICTURE_FORMATS if kind != "PPM"])
def test_each_documented_format_is_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.bin"
    file.write_bytes(written(Image.fromarray(noise()), kind))
    assert open_image(PathImage(file)).size == (40, 24)
    assert check_image(ImagePlace(str(file))).code == ("image-mode" if kind == "GIF" else "")


@pytest.mark.parametrize(
    "kind", ["EPS", "ICO", "PCX", "TGA", "ICNS", "DDS", "SGI", "PDF", "IM", "MSP", "XBM", "SPIDER"]
)
def test_no_other_decoder_is_started(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", started)
    monkeypatch.setattr("subprocess.Popen", started)
    mode = {"XBM": "1", "MSP": "1", "SPIDER": "F"}.get(kind, "RGB")
    file = tmp_path / "photo.jpg"
    file.write_bytes(EPS if kind == "EPS" else written(Image.new(mode, (32, 32)), kind))
    readers: list[Callable[[], object]] = [
        lambda: open_image(PathImage(file)),
        lambda: open_image(image_reference(Picture("a", path=file))),
        lambda: chat_images.load_image(str(file)),
    ]
    for reader in readers:
        with pytest.raises(Exception, match="not an image that can be read"):
            reader()
    assert check_image(ImagePlace(str(file))).code == "image-not-image"


def test_an_image_in_a_tar_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(BadImageError, match="no such file"):
        open_image(replace(TarImage(f"{tmp_path}/a.tar/b.jpg", 0, 10)))
