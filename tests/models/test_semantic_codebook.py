"""The semantic codebook as a network."""

import torch

from autosing.models.semantic import READ_OUT_REACH, SemanticCodebook, SemanticConfig, neighbourhood


def test_the_read_out_of_few_and_of_no_tokens() -> None:
    model = SemanticCodebook(SemanticConfig(features=4, classes=3, num_codes=8))
    for count in (0, 1, 3):
        tokens = torch.arange(count)
        assert neighbourhood(model.codes, tokens).shape == (count, (2 * READ_OUT_REACH + 1) * model.config.width + 1)
        assert model.phone_logits(tokens).shape == (count, 2, 3)
