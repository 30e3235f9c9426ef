"""Sums by source, modality and number of images, with the answers written out."""

import torch

from croc_cli.train.loss_groups import LossGroups, SampleLoss


def test_losses_are_means_over_the_trained_tokens_of_each_group() -> None:
    groups = LossGroups(["a/b", "chat", "unused"])
    losses = [
        SampleLoss("a/b#1", "a/b", 1, 10, 20.0),
        SampleLoss("a/b#2", "a/b", 7, 30, 20.0),
        SampleLoss("chat#1", "chat", 0, 5, 5.0),
        SampleLoss("chat#2", "chat", 0, 0, 0.0),
    ]
    rank_0, rank_1 = groups.sums(losses[:1]), groups.sums(losses[1:])
    assert torch.equal(rank_0 + rank_1, groups.sums(losses))
    assert groups.fields(rank_0 + rank_1) == {
        "source": {
            "a/b": {"loss": 1.0, "tokens": 40, "samples": 2},
            "chat": {"loss": 1.0, "tokens": 5, "samples": 2},
        },
        "modality": {
            "image": {"loss": 1.0, "tokens": 40, "samples": 2},
            "text": {"loss": 1.0, "tokens": 5, "samples": 2},
        },
        "num_images": {
            "0": {"loss": 1.0, "tokens": 5, "samples": 2},
            "1": {"loss": 2.0, "tokens": 10, "samples": 1},
            "5+": {"loss": 20 / 30, "tokens": 30, "samples": 1},
        },
    }


def test_a_group_of_dropped_samples_alone_has_no_loss() -> None:
    groups = LossGroups(["one"])
    fields = groups.fields(groups.sums([SampleLoss("one#1", "one", 0, 0, 0.0)]))
    assert fields["source"] == {"one": {"loss": None, "tokens": 0, "samples": 1}}
