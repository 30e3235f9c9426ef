"""What a recipe may say: one YAML file is one pipeline, and this is every key of it.

A relative path starts in the folder where croc is run; data that is not there is looked for in `data.root`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from croc_cli.names import AttentionName, StageName
from croc_cli.recipe.data_schema import DataRecipe, LlavaJsonData, MixData, ScenesData, Share, SourceRecipe
from croc_cli.recipe.recomputation import RecomputationSetting
from croc_cli.recipe.reconstruct_schema import MaskRecipe, ObjectivesRecipe, PoolRecipe, ReconstructionRecipe
from croc_cli.recipe.stages import STAGE_TABLE
from croc_cli.recipe.template_options import TemplateOptions, TrainedTokensName
from croc_cli.recipe.values import NonNegativeFloat, PathText, PositiveFloat, PositiveInt, Section, Seed, Workers

__all__ = ["DataRecipe", "LlavaJsonData", "MixData", "Recipe", "ScenesData", "SourceRecipe"]

TemplateName = Literal["plain", "vicuna_v1", "chat_template", "qwen_1_5"]
AspectName = Literal["pad", "square", "squeeze"]
ResamplingName = Literal["tower", "nearest", "bilinear", "bicubic", "lanczos"]
MonitorName = Literal["tensorboard", "trackio", "wandb"]
STALL_SECONDS = 1800.0
"""The longest single thing that a rank does, such as saving 13B parameters on a slow disk, is meant to be shorter."""


class ModelRecipe(Section):
    """The pretrained parts, and how visual tokens enter the LLM."""

    vision_tower: PathText = Field(description="Folder, hub id or `builtin:nano` of a CLIP-shaped vision tower")
    llm: PathText = Field(description="Folder, hub id or `builtin:nano` of a decoder-only LLM with its tokenizer")
    vision_tower_revision: PathText | None = Field(None, description="Hub revision of the tower")
    llm_revision: PathText | None = Field(None, description="Hub revision of the LLM")
    vision_feature_layer: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        -2, description="Hidden state of the tower that is projected; -2 = penultimate"
    )
    projector_initialisation: Literal["torch", "captions"] = Field(
        "torch",
        description="torch = its own for linear layers, as LLaVA; captions = a closed-form fit to those of the data",
    )
    image_resampling: ResamplingName = Field(
        "tower", description="How pictures are resized; tower = as its own image processor does"
    )
    visual_norm: Literal["none", "l2"] = Field(
        "none", description="Norm of visual tokens after the projector; l2 = as in the released code, not stock LLaVA"
    )
    attention: AttentionName = Field("auto", description="Attention kernel of the LLM; auto = by stage and device")


class BatchRecipe(Section):
    """Batch sizes of one stage, in samples; with packing, a forward pass is counted in rows."""

    global_size: PositiveInt = Field(description="Samples per optimizer step")
    micro_size: PositiveInt = Field(description="Samples per rank per forward pass")
    packing: bool = Field(
        False,
        description="Pack the samples of a step into rows, which micro_size then counts; hardly anything is padding",
    )
    row_tokens: PositiveInt | None = Field(
        None, description="Tokens of a packed row at most, at least those of the longest sample; default: max_length"
    )


class LearningRates(Section):
    """Peak learning rate of each parameter group; 0 or left out = frozen."""

    vision_tower: NonNegativeFloat | None = Field(
        None, description="Of the layers up to the projected one; null or 0 = frozen, as in the paper"
    )
    projector: NonNegativeFloat = 0.0
    llm: NonNegativeFloat = 0.0
    token_pool: NonNegativeFloat = 0.0
    head: NonNegativeFloat = 0.0

    @field_validator("vision_tower")
    @classmethod
    def _zero_is_none(cls, rate: float | None) -> float | None:
        """Write a frozen tower in one way, so that 0 and null are the same settings to a run that resumes."""
        return rate or None

    def trained(self) -> dict[str, float]:
        """Return the peak rate of each group that has one."""
        return {group: rate for group, rate in self.model_dump().items() if rate}


class OptimizerRecipe(Section):
    """AdamW and its schedule."""

    betas: tuple[Share, Share] = Field((0.9, 0.98), description="Paper, section 4")
    weight_decay: NonNegativeFloat = Field(0.0, description="Paper, Table 7")
    eps: PositiveFloat = 1e-8
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Share = Field(0.03, description="Share of the steps over which the rate rises from zero")
    clip_norm: NonNegativeFloat = Field(1.0, description="Largest gradient norm; 0 = no clipping")


class StageRecipe(Section):
    """What every training stage has."""

    enabled: bool = True
    batch: BatchRecipe
    learning_rate: LearningRates
    optimizer: OptimizerRecipe = OptimizerRecipe()
    loss_mean: Literal["step", "micro_batch"] = Field(
        "step",
        description="Losses are means over the step's samples; micro_batch = over each micro-batch, whose means are"
        " averaged, as in LLaVA's, Croc's and ViCToR's code",
    )
    epochs: PositiveFloat = 1.0
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps; default: as many as the epochs have")
    template: TemplateName
    system_prompt: str | None = Field(
        None, description="System sentence of qwen_1_5; default: You are a helpful assistant."
    )
    trained_tokens: TrainedTokensName = Field(
        "answers",
        description="answers = with their end tokens; turns = whole answering turns, and control tokens and lone"
        " newlines wherever they stand, as ViCToR's code (qwen_1_5, plain)",
    )
    control_tokens_in_text: bool = Field(
        False,
        description="Read those that rows spell out, as ViCToR's code; in prompts never (qwen_1_5, plain)",
    )
    image_aspect: AspectName = Field(
        "pad", description="pad = mean colour to a square; square = centre crop; squeeze = both sides to the square"
    )
    max_length: PositiveInt = Field(2048, description="Tokens of a sequence, visual tokens included")
    precision: Literal["bf16", "fp32"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="What DeepSpeed keeps in host memory: nothing, optimizer state, or parameters too"
    )
    gradient_dtype: Literal["fp32", "bf16"] | None = Field(
        None, description="Type in which gradients are added up; default: fp32, but bf16 in bf16 without ZeRO"
    )
    deepspeed: dict[str, Any] = Field(
        {}, description="Keys of DeepSpeed's config, laid over what croc makes; none that this recipe's own keys decide"
    )
    gradient_checkpointing: RecomputationSetting = Field(
        "auto",
        description="Layers computed again in the backward pass: none, alternate, full; auto = the first of these that"
        " fits the device's memory",
    )
    seed: Seed = 0
    save_every: PositiveInt | None = Field(None, description="Steps between checkpoints; default: the last step only")
    keep_checkpoints: PositiveInt = Field(2, description="Newest checkpoints that stay on disk")
    validate_every: PositiveInt | None = Field(
        None, description="Steps between measurements of the held-out loss; default: about 2 % of the time"
    )

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row at most, where samples are packed; else None."""
        return (self.batch.row_tokens or self.max_length) if self.batch.packing else None

    @property
    def template_options(self) -> TemplateOptions:
        """What the stage says of its template beside the name."""
        return TemplateOptions(self.system_prompt, self.trained_tokens, self.control_tokens_in_text)


class ReconstructStage(StageRecipe):
    """Stage 1.5: masked visual token reconstruction and detailed captions."""

    pool: PoolRecipe = PoolRecipe()
    mask: MaskRecipe = MaskRecipe()
    matching: Literal["hungarian", "nearest"] = "hungarian"
    matching_scope: Literal["image", "sample"] = Field(
        "image", description="sample = a sample's images share one assignment, as in ViCToR's code"
    )
    attention: Literal["mixed", "causal", "prefix"] = Field(
        "mixed", description="mixed = visual tokens visible to all; prefix = all before the first label, as released"
    )
    objectives: ObjectivesRecipe = ObjectivesRecipe()
    reconstruction: ReconstructionRecipe = ReconstructionRecipe()
    log_gradient_shares_every: PositiveInt | None = Field(
        None, description="Steps between measurements of the gradient norm each objective alone gives the LLM"
    )


class DuringRecipe(Section):
    """Benchmarks that a stage answers while it trains."""

    benchmarks: tuple[str, ...] = Field((), description="Names of `croc eval list` that no judge and no server scores")
    every: PositiveInt = Field(500, description="Steps between two evaluations; the last step always has one")
    limit: PositiveInt | None = Field(200, description="Questions of each benchmark, spread over all; null = all")
    keep_best: str | None = Field(
        None, description="Benchmark by which the best checkpoint is kept beside the newest ones"
    )
    data: PathText | None = Field(None, description="Root of the benchmark files; default: data/eval")
    batch_size: PositiveInt = Field(16, description="Questions answered at once")


class EvalRecipe(Section):
    """The evaluation that ends the pipeline."""

    benchmarks: tuple[Literal["scenes"], ...] = ()
    num_scenes: Annotated[int, Field(gt=0, le=10**7)] = Field(
        100, description="Held-out scenes of the `scenes` benchmark"
    )
    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt = 128
    variants: dict[str, str] = Field(
        {}, description="Variants of `croc eval`'s benchmarks, such as {textvqa: no-ocr}; see croc eval list"
    )
    during: DuringRecipe = DuringRecipe()


class JudgeRecipe(Section):
    """The model that scores the answers of LLaVA-Bench and MM-Vet; its key is in CROC_JUDGE_API_KEY alone."""

    base_url: str | None = Field(None, description="OpenAI-compatible endpoint, such as https://api.openai.com/v1")
    model: str | None = Field(None, description="Name of the judge model, such as gpt-4-0613")
    num_workers: Workers = Field(8, description="Requests at once")
    timeout: PositiveFloat = Field(120.0, description="Seconds to wait for a reply")


class ChatRecipe(Section):
    """How `croc chat` answers with this recipe's model."""

    temperature: NonNegativeFloat = Field(0.0, description="0 = greedy")
    max_tokens: PositiveInt = 512


class SlurmRecipe(Section):
    """What a Slurm job needs; `croc` then starts ranks with srun."""

    num_nodes: Workers = 1
    partition: str | None = None
    time_limit: str | None = Field(None, description="As Slurm writes it, such as 2-00:00:00")
    extra_args: tuple[str, ...] = ()


class TrackingRecipe(Section):
    """Under which names trackio and Weights & Biases keep a run."""

    project: str = "croc"
    team: str | None = Field(None, description="Of Weights & Biases")
    group: str | None = Field(None, description="Default: recipe and stage")


class LaunchRecipe(Section):
    """Where the ranks run."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile of the LLM's layers; auto = on GPUs, except under ZeRO-3"
    )
    kernels: Literal["auto", "liger", "none"] = Field(
        "auto",
        description="Fused kernels of the LLM's layers; auto = Liger's on GPUs, if installed and nothing is compiled",
    )
    num_ranks: Workers | Literal["auto"] = Field("auto", description="Ranks per node; auto = every GPU, or 1 on a CPU")
    threads_per_rank: Workers | None = Field(None, description="CPU threads of a rank; default: cores / ranks")
    hostfile: PathText | None = Field(None, description="DeepSpeed hostfile of a multi-node run")
    slurm: SlurmRecipe | None = None
    master_port: Annotated[int, Field(gt=0, le=65535)] | None = Field(None, description="Default: a free one")
    stall_timeout: PositiveFloat = Field(
        STALL_SECONDS, description="Seconds without any change of a rank's position after which the run is ended"
    )
    preflight: Literal["auto", "always", "never"] = Field(
        "auto", description="Rehearse a stage before it starts; auto = where it is planned to take over ten minutes"
    )


class Recipe(Section):
    """One pipeline: model, data, the stages, evaluation, chat, launch."""

    _argument: str = ""  # what a command is given to load it again
    name: str = Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Names the run folder; default: the file's name",
    )
    description: str = ""
    model: ModelRecipe
    data: DataRecipe
    align: StageRecipe
    reconstruct: ReconstructStage
    finetune: StageRecipe
    eval: EvalRecipe = EvalRecipe()
    judge: JudgeRecipe = JudgeRecipe()
    chat: ChatRecipe = ChatRecipe()
    launch: LaunchRecipe = LaunchRecipe()
    monitor: tuple[MonitorName, ...] = Field(
        (), description="Where metrics go besides metrics.jsonl: tensorboard, trackio, wandb"
    )
    tracking: TrackingRecipe = TrackingRecipe()
    runs_folder: PathText = Field("runs", description="Run folders are made in it, one a recipe")

    def stage(self, name: str) -> StageRecipe:
        """Return the section of a stage."""
        return getattr(self, name)  # type: ignore[no-any-return]

    def pool_stage(self, name: StageName) -> ReconstructStage | None:
        """Return the section of a stage that has a token pool, by the stage table; None for the others."""
        return self.reconstruct if STAGE_TABLE[name].has_pool else None
