"""What the `data` part of a recipe may say: what each stage is trained on, and what is held out of it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer

from croc_cli.pictures import ImageReading
from croc_cli.recipe.values import PathText, Pattern, PositiveInt, Section, Seed, number_or_share

Share = Annotated[float, Field(ge=0.0, le=1.0)]
BadImages = Annotated[int | str, BeforeValidator(number_or_share)]


class HeldOutRecipe(Section):
    """Samples that a stage never trains on and whose loss is measured: `held_out: 512` is short for {count: 512}."""

    count: PositiveInt | None = Field(None, description="Samples to draw from the stage's own, by hash")
    path: PathText | None = Field(None, description="JSON list or JSONL in LLaVA's form, in place of a draw")
    image_folder: PathText | None = Field(None, description="Folder that the `image` paths of `path` start from")


def _counted(value: object) -> object:
    """Read a plain number as the count.

    Raises:
        ValueError: It is neither a number nor a mapping.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value}
    if not isinstance(value, dict | HeldOutRecipe):
        raise ValueError("must be a number of samples such as 512, or a file: {path: FILE, image_folder: DIR}")
    return value


HeldOut = Annotated[HeldOutRecipe, BeforeValidator(_counted)]
_HELD_OUT = "Samples that are never trained on, whose loss is measured: a number, or a file of their own"


class LlavaJsonData(Section):
    """Samples from a LLaVA JSON list or JSONL file and a folder of images."""

    kind: Literal["llava_json"]
    path: PathText = Field(description="JSON list or JSONL in LLaVA's form")
    image_folder: PathText = Field(description="Folder that the rows' `image` paths start from")
    num_samples: PositiveInt | None = Field(None, description="Samples to take, by a seeded draw; default: all")
    held_out: HeldOut | None = Field(None, description=_HELD_OUT)


class ScenesData(Section):
    """Samples drawn on the fly: scenes of coloured shapes with captions and questions."""

    kind: Literal["scenes"]
    task: Literal["brief_captions", "detailed_captions", "questions"]
    num_samples: Annotated[int, Field(gt=0, le=10**7)] = Field(description="Samples of one epoch")
    text_only_share: Share = Field(
        0.0, description="Share of samples that describe the scene in words, without picture"
    )
    brief: bool = Field(False, description="Brief captions in place of detailed ones, for the same pictures")
    held_out: HeldOut | None = Field(None, description=_HELD_OUT)


class FilterRecipe(Section):
    """Which rows of a source may be drawn."""

    modality: Literal["image", "text"] | None = Field(None, description="Rows with images, or rows of text alone")
    image_prefixes: tuple[str, ...] = Field((), description="Image paths start with one of these")
    not_image_prefixes: tuple[str, ...] = Field((), description="Image paths start with none of these")
    human_matches: Pattern | None = Field(None, description="Regular expression found in the first question")
    not_human_matches: Pattern | None = Field(None, description="Regular expression not found in the first question")
    min_answer_chars: PositiveInt | None = Field(None, description="Least characters of a row's answers together")
    max_answer_chars: PositiveInt | None = Field(None, description="Most characters of a row's answers together")
    max_turns: PositiveInt | None = Field(None, description="Most turns of a row, human and gpt counted")


class ColumnsRecipe(Section):
    """Which columns of a table hold what; several are joined by a line end, empty ones left out."""

    human: tuple[str, ...] = Field((), description="Columns of the question, such as [instruction, input]")
    gpt: tuple[str, ...] = Field((), description="Column of the answer; of several names the first that is there")
    conversations: str | None = Field(None, description="Column of a whole conversation, in place of human and gpt")
    image: str | None = Field(None, description="Column of the image: a path, or the image itself")
    system: str | None = Field(None, description="Column of what the system is told; it begins the first question")
    history: str | None = Field(None, description="Column of earlier pairs of question and answer")
    prompt: str | None = Field(None, description="What the human asks, where no column does")
    strip: bool = Field(False, description="Strip white space around answers; never for code")


class SourceRecipe(Section):
    """One source of a mix."""

    source: str | None = Field(
        None, description="Name in the catalogue (`croc data sources`); left out with path: the key's own name"
    )
    path: PathText | None = Field(None, description="File or folder of your own")
    format: Literal["auto", "llava", "table", "webdataset"] = Field("auto", description="Form of path; auto looks")
    image_root: PathText | None = Field(None, description="Folder that image paths start from")
    columns: ColumnsRecipe | None = Field(None, description="For tables; default: known names are looked for")
    count: PositiveInt | None = Field(None, description="Rows to draw, exactly; left out with fraction: all")
    fraction: Share | None = Field(None, description="Share of the rows to draw")
    seed: Seed = Field(0, description="Seed of the draw")
    filters: FilterRecipe = FilterRecipe()
    max_dropped: Share = Field(0.01, description="Share of defective rows that may be left out before it is an error")
    enabled: bool = True


class MixData(Section):
    """Samples of a mix that `croc data mix` makes of several sources."""

    kind: Literal["mix"]
    preset: PathText | None = Field(None, description="A mix that ships with croc, such as croc1.5m, or a YAML file")
    sources: dict[str, SourceRecipe] = Field(
        default_factory=dict, description="Sources by name; laid over those of the preset"
    )
    path: PathText | None = Field(
        None,
        description="Folder of the mix, made in data.root; default: mixes/ and the preset's name, or recipe and stage",
    )
    seed: Seed = Field(0, description="Seed of the order")
    drop_duplicates: bool = Field(False, description="Leave out rows that repeat another's image, question and answers")
    order: Literal["shuffled", "grouped"] = Field(
        "shuffled", description="grouped = steps with images and steps of text alone, as LLaVA's group_by_modality"
    )
    held_out: HeldOut | None = Field(None, description=_HELD_OUT)

    @field_serializer("sources")
    def _only_what_is_said(self, sources: dict[str, SourceRecipe]) -> dict[str, Any]:
        """Leave defaults out: over a preset's source they would say something that nobody meant."""
        return {name: source.model_dump(mode="json", exclude_defaults=True) for name, source in sources.items()}


DataSource = Annotated[LlavaJsonData | ScenesData | MixData, Field(discriminator="kind")]


class DataRecipe(Section):
    """What each stage is trained on."""

    root: PathText = Field("data", description="Folder that sources, images and mixes lie in")
    catalogs: tuple[PathText, ...] = Field(
        (), description="Catalogue files of your own; they go before what ships with croc"
    )
    align: DataSource
    reconstruct: DataSource | None = Field(None, description="Needed where the reconstruct stage is enabled")
    finetune: DataSource
    image_reading: ImageReading = Field("upright", description="llava = EXIF orientation and transparency left out")
    num_workers: Annotated[int, Field(ge=0, le=4096)] = Field(
        4, description="Loader processes per rank; 0 = load in the training process"
    )
    cache_features: PathText | None = Field(
        None, description="Folder that keeps what the frozen tower makes of pictures; default: computed at each step"
    )
    max_bad_images: BadImages = Field(
        100, description="Images of a stage that may fail to open: a number, or a share of those seen such as 5%"
    )

    def source(self, stage: str) -> DataSource | None:
        """Return what a stage is trained on; None where nothing is named."""
        return getattr(self, stage)  # type: ignore[no-any-return]
