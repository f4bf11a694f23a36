"""What a scene file may say: a frozen class a section, a described and bounded field a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from nerfxl.scene.forms import (
    Auto,
    ByForm,
    Colour,
    Corners,
    Downscale,
    FeatureCount,
    ImageNames,
    PathText,
    PlanText,
    Says,
    Strict,
    form_of,
    refusal,
)
from nerfxl.scene.training import AppearanceSpec, CamerasSpec, TrainSpec


class Candidate(Strict):
    """One place where the capture may lie."""

    path: PathText = Field(
        description="Folder of the capture, relative to the scene file; `${NAME}` is an "
        "environment variable.",
    )
    note: str = Field(
        default="",
        max_length=1000,
        description="What this copy is; printed and stored with every figure made from it.",
    )


def _candidate(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _candidates(value: object) -> object:
    return [value] if isinstance(value, str) else value


Candidates = Annotated[
    tuple[
        Annotated[
            Candidate,
            BeforeValidator(_candidate, json_schema_input_type=str | Candidate),
            Says("a path or a mapping {path, note}"),
        ],
        ...,
    ],
    Field(strict=False, min_length=1, max_length=64),
    BeforeValidator(_candidates, json_schema_input_type=str | list[str | Candidate]),
    Says("a path, or a list whose entries are a path or a mapping {path, note}"),
]


class SplitEvery(Strict):
    """Every n-th image, by sorted name, is held out for testing."""

    every: int = Field(
        ge=2, le=1_000_000, description="Images with sorted index 0, n, 2n, ... are test images."
    )


class SplitLists(Strict):
    """The images of both sets by name; images in neither are not used."""

    train: ImageNames = Field(min_length=1, description="Names of the images to fit.")
    test: ImageNames = Field(description="Names of the images held out; may be empty.")

    @model_validator(mode="after")
    def _disjoint(self) -> SplitLists:
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise refusal(f"{both[0]!r} is in both train and test; remove it from one")
        return self


def _split_form(value: object) -> str:
    if isinstance(value, SplitLists):
        return "lists"
    if isinstance(value, Mapping) and ("train" in value or "test" in value):
        return "lists"
    return form_of(value)


class CaptureSpec(Strict):
    """The photographs and their cameras."""

    path: Candidates = Field(
        description="Where the capture lies, relative to the scene file: the first entry that "
        "exists is used. `${NAME}` is an environment variable; where it is unset, the entry does "
        "not exist.",
    )
    format: Literal["auto", "colmap", "transforms", "synthetic"] = Field(
        default="auto",
        description="How cameras are stored: 'colmap' = a COLMAP model, 'transforms' = a "
        "transforms.json, 'synthetic' = transforms_train.json and transforms_test.json of one "
        "rendered object; 'auto' = the first of these that is there.",
    )
    downscale: Downscale = 1
    orientation: Literal["keep", "pca", "up"] = Field(
        default="keep",
        description="World axes: 'keep' = the capture's own, z up; 'pca' = z along the direction "
        "in which cameras and points vary least; 'up' = z along the cameras' mean upper edge.",
    )
    split: Annotated[
        Auto | Annotated[SplitEvery, Tag("mapping")] | Annotated[SplitLists, Tag("lists")],
        Discriminator(_split_form),
        Says("'auto', {every: n} or {train: [names], test: [names]}"),
    ] = Field(
        default="auto",
        description="Which images are held out; 'auto' = the capture's own lists where it has "
        "them, otherwise every 8th.",
    )
    sky: PathText = Field(
        default="sky",
        description="Folder in the capture of masks of the sky, IMAGE.png for each image IMAGE, "
        "above 0 where the sky is seen; read when train.losses.sky is above 0.",
    )
    max_megapixels: float = Field(
        default=200.0,
        gt=0,
        le=10_000,
        description="Larger images are refused before they are decoded, in megapixels.",
    )
    source: str = Field(
        default="",
        max_length=4000,
        description="Where the data comes from; printed when no path exists.",
    )


class BoundsSpec(Strict):
    """The root box: what the tiles divide."""

    box: Annotated[Auto | Corners, ByForm] = Field(
        default="auto",
        description="Opposite corners, source coordinates; 'auto' = from points and cameras.",
    )
    outside: Literal["auto", "contract", "empty"] = Field(
        default="auto",
        description="Beyond the box: 'contract' = border tiles reach to infinity and contract it "
        "inside their field; 'empty' = the background alone; 'auto' = 'empty' under a flight whose "
        "pictures end inside the box and around an isolated object, otherwise 'contract'.",
    )
    quantile: float = Field(
        default=0.01,
        ge=0,
        lt=0.5,
        description="Share of points dropped at each end of each axis when the box is 'auto'.",
    )
    margin: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="Added at each side when the box is 'auto', as a fraction of its edge.",
    )


class PartitionSpec(Strict):
    """The cut of the root box into disjoint tiles."""

    tiles: int = Field(default=4, ge=1, le=4096, description="Number of tiles; each has a field.")
    method: Literal["kd"] = Field(
        default="kd",
        description="'kd' = recursive cut at the median of the points, towards cubic tiles.",
    )
    plan: PlanText = Field(
        default="auto",
        description="'auto' = a new cut; otherwise a plan file, as `nerfxl plan` writes it, in its "
        "place: relative to the scene file, `${NAME}` is an environment variable.",
    )


class FieldSpec(Strict):
    """One tile's field: hash grid, density network, colour network."""

    levels: int = Field(default=16, ge=1, le=32, description="Levels of the hash grid.")
    features: FeatureCount = Field(default=2, description="Features a level and entry.")
    log2_table: int = Field(
        default=19, ge=8, le=26, description="Entries of a level's table, as a power of 2."
    )
    base_resolution: int = Field(
        default=16, ge=2, le=65_536, description="Cells along an edge on the coarsest level."
    )
    max_resolution: int = Field(
        default=4096, ge=2, le=1_048_576, description="Cells along an edge on the finest level."
    )
    density_hidden: int = Field(
        default=64, ge=1, le=1024, description="Width of the density network's hidden layer."
    )
    geometry_features: int = Field(
        default=15, ge=1, le=255, description="Values that the density network hands to colour."
    )
    colour_hidden: int = Field(
        default=64, ge=1, le=1024, description="Width of the colour network's hidden layers."
    )
    colour_layers: int = Field(
        default=2, ge=1, le=8, description="Hidden layers of the colour network."
    )
    sh_degree: int = Field(
        default=4, ge=1, le=4, description="Spherical-harmonic bands of the view direction."
    )
    density_bias: float = Field(
        default=-1.0, ge=-20, le=20, description="Log density at the start, added before exp."
    )
    background: Annotated[
        Annotated[Literal["sky", "black", "white"], Tag("text")] | Colour,
        ByForm,
        Says("'sky', 'black', 'white' or [red, green, blue] from 0 to 1"),
    ] = Field(
        default="sky",
        description="Behind all tiles; 'sky' = a small learned function of the direction.",
    )


class ProposalSpec(Strict):
    """The small density grid of each tile that says where the samples go."""

    samples: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Bins a ray, over all its tiles, that it is asked in.",
    )
    levels: int = Field(default=5, ge=1, le=32, description="Levels of its hash grid.")
    log2_table: int = Field(
        default=17, ge=8, le=26, description="Entries of a level's table, as a power of 2."
    )
    max_resolution: int = Field(
        default=512, ge=2, le=1_048_576, description="Cells along an edge on its finest level."
    )
    weight: float = Field(default=1.0, ge=0, le=1000, description="Weight of the proposal loss.")
    every: int = Field(
        default=1, ge=1, le=10_000, description="Steps between its updates after the warm-up."
    )
    warmup: int = Field(
        default=500, ge=0, le=1_000_000, description="Steps at the start that all update it."
    )
    padding: float = Field(
        default=0.01, ge=0, le=1, description="Share of the samples spread evenly over the ray."
    )


class OccupancySpec(Strict):
    """The grid of each tile that says which space is empty."""

    samples: int = Field(
        default=1024,
        ge=1,
        le=65_536,
        description="Bins of the lattice on a whole ray; those in empty cells are left out.",
    )
    resolution: int = Field(default=128, ge=8, le=512, description="Cells along an edge.")
    threshold: float = Field(
        default=0.01, ge=0, le=1, description="Opacity of a cell below which it is empty."
    )
    every: int = Field(default=16, ge=1, le=10_000, description="Steps between its updates.")
    warmup: int = Field(
        default=256, ge=0, le=1_000_000, description="Steps at the start that update every cell."
    )


class SamplingSpec(Strict):
    """Where along a ray the field is asked."""

    method: Literal["proposal", "occupancy"] = Field(
        default="proposal",
        description="'proposal' = where a small density grid sees light end; 'occupancy' = in all "
        "space that is not known to be empty.",
    )
    samples: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Samples a ray, over all its tiles, with 'proposal' ('occupancy' has its own).",
    )
    render_samples: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="The same in pictures: more than in training show finer detail.",
    )
    near: Annotated[Auto | Annotated[float, Field(ge=0, le=1e9), Tag("number")], ByForm] = Field(
        default="auto",
        description="Rays start this far from the camera, source units; 'auto' = from the box.",
    )
    budget: int = Field(
        default=262_144,
        ge=1,
        le=2**30,
        description="Samples of the field in a step, over all rays, at most; with 'occupancy' a "
        "step takes as many rays as fit, up to train.rays.",
    )
    proposal: ProposalSpec = Field(default=ProposalSpec(), description="With method 'proposal'.")
    occupancy: OccupancySpec = Field(
        default=OccupancySpec(), description="With method 'occupancy'."
    )


class CaptureProfile(Strict):
    """What a profile may say of the capture."""

    downscale: Downscale = 1


class ProfileSpec(Strict):
    """Part of a scene: only the keys that are written count."""

    capture: CaptureProfile = Field(
        default=CaptureProfile(), description="Of the capture, downscale alone."
    )
    partition: PartitionSpec = Field(default=PartitionSpec(), description="As in the scene.")
    field: FieldSpec = Field(default=FieldSpec(), description="As in the scene.")
    sampling: SamplingSpec = Field(default=SamplingSpec(), description="As in the scene.")
    train: TrainSpec = Field(default=TrainSpec(), description="As in the scene.")


class ProfilesSpec(Strict):
    """Keys that replace the scene's own on one kind of device."""

    cpu: ProfileSpec = Field(default=ProfileSpec(), description="On the CPU.")
    cuda: ProfileSpec = Field(default=ProfileSpec(), description="On CUDA and ROCm GPUs.")


class SceneSpec(Strict):
    """A scene file: everything about a run."""

    name: Annotated[str, Says("text of letters, digits, '.', '_' and '-'")] = Field(
        default="scene",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=64,
        description="Names the run folder; left out, it is the file's name without .yaml.",
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="The one seed of all random numbers."
    )
    capture: CaptureSpec = Field(description="The photographs and their cameras.")
    bounds: BoundsSpec = Field(default=BoundsSpec(), description="What the tiles divide.")
    partition: PartitionSpec = Field(default=PartitionSpec(), description="The cut into tiles.")
    field: FieldSpec = Field(default=FieldSpec(), description="One tile's field.")
    sampling: SamplingSpec = Field(
        default=SamplingSpec(), description="Where along a ray the field is asked."
    )
    train: TrainSpec = Field(default=TrainSpec(), description="The optimisation.")
    exchange: Literal["auto", "gather", "owner", "samples"] = Field(
        default="auto",
        description="How processes tell of a ray: 'gather' = all Segments to all; "
        "'owner' = rays to the tiles they meet and Segments back, photographs shared out; "
        "'samples' = all samples to all, for comparison; 'auto' = gather for up to 16 on one "
        "machine, owner beyond.",
    )
    cameras: CamerasSpec = Field(default=CamerasSpec(), description="Corrections of the cameras.")
    appearance: AppearanceSpec = Field(
        default=AppearanceSpec(), description="What differs from image to image."
    )
    profiles: ProfilesSpec = Field(
        default=ProfilesSpec(), description="Keys that replace the above on one kind of device."
    )

    @model_validator(mode="after")
    def _possible(self) -> SceneSpec:
        found = conflicts(self)
        if found:
            sentences = "; ".join(sentence for _, sentence in found)
            raise PydanticCustomError(
                "conflict", "{sentences}", {"sentences": sentences, "conflicts": found}
            )
        return self


def conflicts(scene: SceneSpec) -> list[tuple[tuple[str, ...], str]]:
    """Values that are fine alone and impossible together.

    They are checked on the whole scene, so that a profile may hold one value of a pair alone.

    Returns
    -------
    Pairs of the dotted keys concerned and what is wrong.
    """
    field, sampling, train = scene.field, scene.sampling, scene.train
    found: list[tuple[tuple[str, ...], str]] = []
    if field.levels > 1 and field.max_resolution <= field.base_resolution:
        found.append(
            (
                ("field.max_resolution", "field.base_resolution", "field.levels"),
                f"field.max_resolution {field.max_resolution} is not above field.base_resolution "
                f"{field.base_resolution}; with more than one level it must be",
            )
        )
    width = field.levels * field.features
    if width > 128:
        found.append(
            (
                ("field.levels", "field.features"),
                f"field.levels {field.levels} times field.features {field.features} makes {width} "
                "inputs to the density network; at most 128 are possible",
            )
        )
    proposal = sampling.proposal
    if (
        sampling.method == "proposal"
        and proposal.levels > 1
        and proposal.max_resolution <= field.base_resolution
    ):
        found.append(
            (
                ("sampling.proposal.max_resolution", "field.base_resolution"),
                f"sampling.proposal.max_resolution {proposal.max_resolution} is not above "
                f"field.base_resolution {field.base_resolution}, where the proposal's grid starts "
                "too",
            )
        )
    if sampling.method == "proposal" and train.rays * sampling.samples > sampling.budget:
        found.append(
            (
                ("train.rays", "sampling.budget"),
                f"{train.rays} rays of {sampling.samples} samples (sampling.samples) are more than "
                f"sampling.budget {sampling.budget}",
            )
        )
    if train.mode != "joint" and scene.exchange != "auto":
        found.append(
            (
                ("train.mode", "exchange"),
                f"exchange {scene.exchange!r} is of train.mode 'joint', and the mode is "
                f"{train.mode!r}; leave exchange out",
            )
        )
    if train.overlap != "auto" and not train.independent:
        found.append(
            (
                ("train.overlap", "train.mode"),
                f"train.overlap {train.overlap} is of independent NeRFs, and train.mode is "
                f"{train.mode!r}; leave it out",
            )
        )
    return found
