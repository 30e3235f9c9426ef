"""Whether a packed row has room for the longest sample of a stage, as far as lengths are known before the launch."""

from croc_cli.errors import UsageError
from croc_cli.names import StageName
from croc_cli.recipe.facts import local_folder, model_facts
from croc_cli.recipe.schema import MixData, Recipe
from croc_cli.sources.mix.lengths import files_key, known_lengths, template_key
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.index import MixFolder


def check_row_tokens(recipe: Recipe, stage: StageName) -> None:
    """Raise UsageError where a sample of a mix is longer than a packed row.

    Lengths are those that `croc data mix` counted; where it did not, at least the visual tokens are known. Samples of
    other data are measured by the ranks as they are loaded.

    Args:
        recipe: The recipe, whose mix is there.
        stage: The stage.
    """
    section = recipe.stage(stage)
    row_tokens, visual = section.row_tokens, model_facts(recipe.model).num_visual_tokens
    source = recipe.data.source(stage)
    if row_tokens is None or row_tokens >= section.max_length or visual is None or not isinstance(source, MixData):
        return
    import numpy as np

    folder = mix_folder(recipe, stage)
    mix = MixFolder(folder)
    llm = local_folder(recipe.model.llm, "llm", recipe.model.llm_revision)
    template = template_key(section.template, section.template_options)
    text = known_lengths(folder, None if llm is None else files_key(llm, template))
    lengths = visual * mix.index.images.astype(np.int64) + (0 if text is None else text)
    longest = int(lengths.argmax())
    tokens = min(int(lengths[longest]), section.max_length)
    if tokens > row_tokens:
        names = [one.name for one in mix.manifest.sources]
        sample = f"{names[mix.index.source.item(longest)]}#{mix.index.row.item(longest)}"
        raise UsageError(
            f"{stage}.batch.row_tokens: {row_tokens:,} is less than the longest sample, {sample}, has:"
            f" {'' if text is not None else 'at least '}{tokens:,} tokens",
            hint=f"--set {stage}.batch.row_tokens={section.max_length} has room for every sample; "
            f"--set {stage}.max_length={row_tokens} cuts longer ones",
        )
