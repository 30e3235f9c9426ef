from croc_cli.sources.verify.alike import AlikeImages


def test_hashes_that_differ_in_few_bits_are_alike() -> None:
    images = AlikeImages()
    value = 0x0123456789ABCDEF
    assert images.add(value, "first") is None
    assert images.add(value ^ 0b111, "second") == "first"
    assert images.add(~value, "third") is None
    assert images.add(value ^ 0x00FF00FF, "fourth") is None  # sixteen bits


def test_negative_hashes_are_the_same_bits() -> None:
    images = AlikeImages()
    assert images.add(-1, "first") is None
    assert images.add((1 << 64) - 1, "second") == "first"
