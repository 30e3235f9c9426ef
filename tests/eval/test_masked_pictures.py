import torch
from PIL import Image

from croc_cli.eval.masked_pictures import (
    MaskedInputs,
    PatchGallery,
    cut,
    mosaic,
    nearest_tokens,
    picture_of,
    run_masked,
    write_captions,
)
from croc_cli.model.lmm import MultimodalModel
from croc_cli.model.token_pool import TokenPool
from tests.tiny import IMAGE_SIZE, NUM_VISUAL_TOKENS, make_tiny_model


def model(attention: str = "mixed") -> MultimodalModel:
    llava = make_tiny_model()
    pool = TokenPool(8, llava.config.text_config.hidden_size)
    torch.nn.init.normal_(pool.weight, generator=torch.Generator().manual_seed(1))
    return MultimodalModel(llava, num_visual_tokens=NUM_VISUAL_TOKENS, pool=pool, attention_kind=attention).eval()


def inputs(of: MultimodalModel, *, count: int = 2) -> MaskedInputs:
    image = of.llava.config.image_token_id
    ids = torch.tensor([[3, *[image] * NUM_VISUAL_TOKENS, 4, 5]] * count)
    masked = torch.zeros(count, NUM_VISUAL_TOKENS, dtype=torch.bool)
    masked[:, ::2] = True
    pixels = torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(2))
    return MaskedInputs(ids, pixels, masked)


def test_greedy_captions_are_what_one_pass_over_prompt_and_caption_predicts() -> None:
    for attention in ("mixed", "causal", "prefix"):
        one = model(attention)
        written = write_captions(one, inputs(one), end_ids=[-1], max_tokens=4)
        assert [len(row) for row in written] == [4, 4]
        logits = run_masked(one, inputs(one), torch.tensor(written)).logits
        assert logits.view(2, 4, -1).argmax(dim=-1).tolist() == written


def test_a_caption_stops_before_its_end_token() -> None:
    one = model()
    written = write_captions(one, inputs(one), end_ids=[-1], max_tokens=4)
    end = written[0][2]
    stopped = write_captions(one, inputs(one), end_ids=[end], max_tokens=4)
    assert stopped[0] == written[0][: written[0].index(end)]


def test_the_nearest_token_is_found_across_blocks() -> None:
    gallery = torch.eye(5)
    assert nearest_tokens(torch.eye(5)[[3, 0, 4]].repeat(200, 1) * 1.1, gallery) == [3, 0, 4] * 200


def test_a_gallery_gives_the_patch_of_a_token() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    gallery = PatchGallery(torch.randn(2, 4, 3), [red, blue])
    assert gallery.side == 2
    assert gallery.patch(3).getpixel((0, 0)) == (255, 0, 0)
    assert gallery.patch(4).getpixel((0, 0)) == (0, 0, 255)


def test_a_mosaic_replaces_patches_and_leaves_holes() -> None:
    made = mosaic(Image.new("RGB", (4, 4), "red"), 2, {1: Image.new("RGB", (9, 9), "blue"), 2: None})
    colours = [patch.getpixel((1, 1)) for patch in cut(made, 2)]
    assert colours == [(255, 0, 0), (0, 0, 255), (128, 128, 128), (255, 0, 0)]


def test_what_the_tower_sees_becomes_a_picture_again() -> None:
    pixels = (torch.full((3, 2, 2), 0.5) - 0.4) / 0.2
    assert picture_of(pixels, [0.4] * 3, [0.2] * 3).getpixel((0, 0)) == (128, 128, 128)
