"""What a catalogue says of a source: its files, how each is had, how large it is, and where it lands."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from croc_cli.recipe.values import Section

EVAL_PREFIX = "eval:"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKMGT]?B)\s*$")


def _bytes_of(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size; write it like 27.4 GB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError(f"{value!r} must be a path below the data root")
    return value


Size = Annotated[NonNegativeInt, BeforeValidator(_bytes_of)]
InsidePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Unpack(Section):
    """What becomes of an archive once it is whole."""

    to: InsidePath = Field(description="Folder that its files are put into")
    flat: bool = Field(False, description="Put files there by their name alone, whatever folder they lie in")
    strip: tuple[str, ...] = Field((), description="Leading folders that are left off where they are there")
    only: tuple[str, ...] = Field((), description="Patterns of the file names to take, such as *.jpg; default: all")
    num_files: PositiveInt | None = Field(None, description="How many files it must give")
    max_files: PositiveInt = Field(2_000_000, description="More files than this are refused")
    max_bytes: Size = Field(10**12, description="More bytes than this, unpacked, are refused")


class Download(Section):
    """A file with its size, as far as it is known."""

    to: InsidePath | None = Field(None, description="Where it lands; a folder where it ends with a slash")
    size: Size | None = Field(None, description="Bytes, exactly; another size is refused")
    about: Size | None = Field(None, description="Bytes, as a page prints them, such as 27.4 GB")
    sha256: Sha256 | None = Field(None, description="Another content is refused")
    unpack: Unpack | None = None

    @model_validator(mode="after")
    def _has_a_place(self) -> "Download":
        if self.to is None and self.unpack is None:
            raise ValueError("must say where it lands: to, or unpack")
        return self

    @property
    def expected_bytes(self) -> int | None:
        """Bytes to download, exactly or about; None where nothing is known."""
        return self.size if self.size is not None else self.about


class HubFile(Download):
    """A file of a hub repository, or several by a pattern."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    repo_type: Literal["dataset", "model"] = "dataset"
    revision: str = Field("main", description="Commit, in full or its beginning, or branch")
    path: str = Field(description="File in the repository; * and ? stand for several")

    @model_validator(mode="after")
    def _patterns_land_in_folders(self) -> "HubFile":
        if self.is_pattern and (self.to is None or not self.to.endswith("/")):
            raise ValueError(f"path {self.path} may be several files, so `to` must be a folder and end with a slash")
        return self

    @property
    def is_pattern(self) -> bool:
        """Whether the path may stand for several files."""
        return any(letter in self.path for letter in "*?[")


class WebFile(Download):
    """A file at a URL."""

    kind: Literal["web"]
    url: str = Field(pattern=r"^https?://")


class ImageDownload(Section):
    """How img2dataset fetches the images of a URL list (its own settings, under its own names where they have one)."""

    image_size: PositiveInt = Field(336, description="Longest shorter side in pixels; larger images are scaled down")
    encode_quality: int = Field(95, ge=1, le=100)
    min_image_size: NonNegativeInt = Field(32, description="Images with a shorter side are refused, in pixels")
    processes_count: PositiveInt | None = Field(None, description="Default: the machine's cores")
    thread_count: PositiveInt = Field(64, description="Downloads at a time, per process")
    timeout: PositiveInt = Field(10, description="Seconds that a server may be silent")
    url_seconds: PositiveInt = Field(60, description="Seconds that one image may take as a whole")
    allow_private: bool = Field(False, description="Fetch from addresses of your own network, too")
    retries: NonNegativeInt = Field(2, description="Further tries of one URL, at once, within one call")
    number_sample_per_shard: PositiveInt = Field(10_000, description="URLs that are taken up again together")
    distributor: Literal["multiprocessing", "pyspark", "ray"] = Field(
        "multiprocessing", description="pyspark and ray spread the work over machines, and must be installed"
    )
    disallowed_header_directives: tuple[str, ...] | None = Field(
        None, description="X-Robots-Tag words that forbid an image; default: noai, noimageai, noindex, noimageindex"
    )
    user_agent_token: str = Field("croc", description="Name that robots headers may speak to")
    stall_seconds: PositiveInt = Field(300, description="After so long without any progress it is ended and taken up")
    max_tries: PositiveInt = Field(3, description="Calls of croc in which a failed URL is tried")


class UrlList(Section):
    """Images at the URLs of a table that lies below the data root, or was fetched there."""

    kind: Literal["url_list"]
    path: InsidePath = Field(description="JSON, JSONL, CSV, TSV or Parquet, or a folder of Parquet files")
    url_column: str | None = Field(None, description="Default: the first of url, URL, link, image_url, imageURL")
    key_column: str | None = Field(
        None,
        description="Names the image below `to`; @key = the JSON object's key; default: row number",
    )
    to: InsidePath = Field(description="Folder that images are put into")
    rows_to: InsidePath | None = Field(
        None, description="JSONL of the rows whose image came; their `image` is a path from the data root"
    )
    rows_from: InsidePath | None = Field(
        None, description="LLaVA JSON whose rows name the images by our key: rows_to gets its rows, `image` as it is"
    )
    about: Size | None = None
    download: ImageDownload = ImageDownload()

    @model_validator(mode="after")
    def _rows_go_somewhere(self) -> "UrlList":
        if self.rows_from is not None and self.rows_to is None:
            raise ValueError("rows_from needs rows_to")
        return self

    @property
    def expected_bytes(self) -> int | None:
        """Bytes to download, about."""
        return self.about


class SamTars(Section):
    """Tars of SA-1B, from the links file that its form hands out, or from tars that are already here."""

    kind: Literal["sam"]
    to: InsidePath
    first: NonNegativeInt = Field(description="First tar that is needed")
    last: NonNegativeInt = Field(description="Last tar that is needed")
    num_files: PositiveInt | None = None
    about: Size | None = Field(None, description="Bytes of all tars")
    about_unpacked: Size | None = Field(None, description="Bytes of the images in them, without the masks")

    @property
    def expected_bytes(self) -> int | None:
        """Bytes to download, about."""
        return self.about

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tars, as the links file has them."""
        return tuple(f"sa_{number:06d}.tar" for number in range(self.first, self.last + 1))


class ByHand(Section):
    """Something that only a person can get: a form, a drive folder."""

    kind: Literal["by_hand"]
    to: InsidePath
    page: str
    how: str = Field(description="What to do, in a line")
    optional: bool = Field(False, description="The source is of use without it")

    @property
    def expected_bytes(self) -> int | None:
        """Unknown."""
        return None


class Link(Section):
    """A second name of something that another source brings."""

    kind: Literal["link"]
    to: InsidePath
    target: InsidePath

    @property
    def expected_bytes(self) -> int | None:
        """None to download."""
        return 0


SourceFile = Annotated[HubFile | WebFile | UrlList | SamTars | ByHand | Link, Field(discriminator="kind")]


class Source(Section):
    """One source: what it is, under which terms, how it is had, and where it lies below the data root."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.:-]*$")
    title: str = ""
    group: Literal["align", "reconstruct", "finetune", "finetune-800k", "images", "eval", "own"] = "own"
    rows: PositiveInt | None = Field(None, description="Rows of its annotation file, as far as it is known")
    licence: str = Field("not stated", description="As its card or page names it")
    non_commercial: bool = Field(False, description="Its licence forbids commercial use")
    gpt_derived: bool = Field(False, description="Text was written by a GPT model, whose provider has terms of its own")
    gated: bool = Field(False, description="Its page requires a login and consent; HF_TOKEN proves it")
    homepage: str | None = None
    annotation: InsidePath | None = Field(None, description="File or folder of its rows")
    image_root: InsidePath | None = Field(None, description="Folder that its rows' image paths start from")
    images: dict[str, str] = Field(
        default_factory=dict, description="By the beginning of the rows' image paths: the source that brings them"
    )
    needs: tuple[str, ...] = Field((), description="Further sources that it is of no use without")
    files: tuple[SourceFile, ...] = Field(min_length=1)
    unverified: tuple[str, ...] = Field((), description="What nobody has checked; looked at while it is fetched")
    note: str = ""

    @property
    def expected_bytes(self) -> int:
        """Bytes to download as far as they are known."""
        return sum(file.expected_bytes or 0 for file in self.files)

    @property
    def size_is_known(self) -> bool:
        """Whether every file's size is known, at least about."""
        return all(file.expected_bytes is not None for file in self.files if file.kind != "by_hand")

    @property
    def revision(self) -> str | None:
        """The hub revision of its files, where they are of one."""
        revisions = {file.revision for file in self.files if isinstance(file, HubFile)}
        return revisions.pop() if len(revisions) == 1 else None
