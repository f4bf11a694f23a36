"""What a scene file may say of training, cameras and appearance."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from nerfxl.scene.forms import Auto, ByForm, Milestones, OffOn, Strict


class ScheduleSpec(Strict):
    """How the learning rate falls."""

    milestones: Milestones = Field(
        default=(0.5, 0.75, 0.9),
        description="Fractions of the run at which the learning rate is multiplied by gamma.",
    )
    gamma: float = Field(default=0.33, gt=0, le=1, description="Factor at each milestone.")


class LossSpec(Strict):
    """What is minimised; the proposal's weight is `sampling.proposal.weight`."""

    colour: Literal["mse", "smooth_l1"] = Field(
        default="smooth_l1", description="Loss of a pixel's colour."
    )
    distortion: float = Field(
        default=0.002,
        ge=0,
        le=1000,
        description="Weight of the distortion loss over the whole ray; 0 = off.",
    )
    depth: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of the loss of distance to the capture's sparse points, in the images "
        "that saw them; 0 = off.",
    )
    depth_rays: float = Field(
        default=0.125,
        gt=0,
        lt=1,
        description="Share of a step's rays that go through sparse points, with depth above 0.",
    )
    sky: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of the loss of opacity where capture.sky says that the sky is seen; "
        "0 = off.",
    )
    solid: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of the loss of transparency, of all rays that see no sky: where they "
        "end at something in the scene, such as the ground below a flight; 0 = off.",
    )


class TrainSpec(Strict):
    """The optimisation."""

    mode: Literal["joint", "ddp", "independent-3d", "independent-2d"] = Field(
        default="joint",
        description="'joint' = all tiles as one scene (NeRF-XL); for comparison: 'ddp' = every "
        "process holds the whole scene and a share of the rays, 'independent-3d' = a NeRF a tile, "
        "each trained alone on the rays that meet it, blended in space (Mega-NeRF), "
        "'independent-2d' = a NeRF a group of cameras, blended in the picture (Block-NeRF).",
    )
    overlap: Annotated[Auto | Annotated[float, Field(ge=0, le=4), Tag("number")], ByForm] = Field(
        default="auto",
        description="By how much of its edge an independent NeRF's tile, or group of cameras, is "
        "larger than without neighbours; 'auto' = 0.15 of a tile, 0.5 of a group.",
    )
    steps: int = Field(default=20_000, ge=1, le=10_000_000, description="Steps of the run.")
    rays: int = Field(default=8192, ge=1, le=4_194_304, description="Rays a step, over all ranks.")
    learning_rate: float = Field(
        default=0.01, gt=0, le=1, description="Learning rate after the warm-up."
    )
    optimiser: Literal["adam"] = Field(default="adam", description="Adam, in float32.")
    eps: float = Field(default=1e-15, gt=0, le=0.01, description="Adam's epsilon.")
    warmup_steps: int = Field(
        default=100, ge=0, le=1_000_000, description="Steps over which the learning rate rises."
    )
    schedule: ScheduleSpec = Field(
        default=ScheduleSpec(), description="How the learning rate falls."
    )
    losses: LossSpec = Field(default=LossSpec(), description="What is minimised.")
    checkpoint_every: int = Field(
        default=2000,
        ge=0,
        le=10_000_000,
        description="Steps between checkpoints; 0 = only at the end.",
    )
    log_every: int = Field(
        default=100, ge=1, le=10_000_000, description="Steps between lines of metrics.jsonl."
    )
    eval_every: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Steps between evaluations on the test images; 0 = only at the end.",
    )

    @property
    def independent(self) -> bool:
        """Whether each tile, or group of cameras, has a NeRF to itself."""
        return self.mode.startswith("independent")


class DisturbSpec(Strict):
    """Errors of known size in the poses of the training images."""

    rotation: float = Field(
        default=0.0, ge=0, le=180, description="Degrees about a random axis, normal deviation."
    )
    translation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Normal deviation along each axis, as a share of the root box's longest edge.",
    )


class CamerasSpec(Strict):
    """Corrections of the poses of the training images, learned with the scene."""

    refine: Annotated[Literal["off", "on", "translation"], OffOn] = Field(
        default="off",
        description="'on' = a rotation and a translation of each camera, 'translation' = that "
        "alone; one correction a camera for all tiles.",
    )
    learning_rate: float = Field(
        default=0.0005,
        gt=0,
        le=1,
        description="Of the corrections, in radians and scene units (the root box is 2 long); it "
        "falls to a hundredth over the run.",
    )
    warmup_steps: int = Field(
        default=500, ge=0, le=1_000_000, description="Steps before the corrections begin."
    )
    weight: float = Field(
        default=0.0001,
        ge=0,
        le=1000,
        description="Weight of the mean squared correction in the loss.",
    )
    coarse_to_fine: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="With refine: share of the run over which the finer levels of the hash grid "
        "come in, one after the other; poses are found on the coarse ones. 0 = all at once.",
    )
    disturb: DisturbSpec = Field(
        default=DisturbSpec(), description="Errors put into the poses, for experiments."
    )


class AppearanceSpec(Strict):
    """What differs from image to image though the scene does not: light and camera settings."""

    embedding: Annotated[Literal["off", "on"], OffOn] = Field(
        default="off", description="'on' = a learned vector an image goes into the colour network."
    )
    size: int = Field(default=8, ge=1, le=64, description="Length of that vector.")
    exposure: Annotated[Literal["off", "on"], OffOn] = Field(
        default="off",
        description="'on' = a learned gain and offset an image and channel, of the whole pixel.",
    )
    at_test: Literal["zero", "mean", "half"] = Field(
        default="mean",
        description="For a held-out image: 'zero' = no vector and no exposure, 'mean' = those of "
        "the training images, 'half' = fitted on its left half, and its right half is scored.",
    )
