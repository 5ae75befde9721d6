"""How a cascade is sampled: its settings, and which of them are possible."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from mav import samplers
from mav.stages import Stage

# What has settings. Extrapolation is the interpolation's network, where it fills in frames of the
# decoder's pace in place of those between them.
SAMPLED = ("prior", "decoder", "extrapolation", "interpolation", "sr_256", "sr_768")
WHOLE = ("steps", "aug_level", "candidates", "frame_skip", "frames", "overlap", "size", "chunk")
FINITE = ("guidance_scale", "guidance_rescale", "dynamic_threshold", "fps", "still_fps")
PICTURES = ("decoder", "sr_256", "sr_768")  # stages at whose size a cascade may stop


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a cascade is sampled. The tables are by stage; `extrapolation` is in them as well, and as
    `interpolation` where not named.

    steps: network calls per sample. sampler, spacing: names in `mav.samplers`. guidance_scale: 1 is
    plain conditional. guidance_interval: from where to where it acts, 0 is clean and 1 noise
    (Kynkäänniemi et al. 2024); what is not named, everywhere. guidance_rescale: of
    `diffusion.guide`, 0 where not named. dynamic_threshold: of `diffusion.Process`, the stage's own
    where not named. aug_level: noise put on the input of each super-resolution, in timesteps.
    candidates: samples of prior and decoder, 1 where not named (unCLIP §2.2). The prior's nearest
    to the text in CLIP's eyes go on, one to each of the decoder's; of these the one nearest to what
    it was told is kept, after a third of the steps, where they already show what they become, and
    only it is finished. fps: frames per second of the 16 frames of the decoder. still_fps: at which
    nothing moves, as a decoder has learned that saw pictures held as clips; its guidance then leads
    away from there too, so that more moves; None for other decoders. frame_skip: output frames per
    decoder frame. frames: 1, the decoder's 16, or more, which are interpolated; beyond the
    decoder's frames a video goes on window by window, each from the last `overlap` frames. size:
    64, 256 or 768, where the cascade stops. chunk: frames that sr_768 takes at once, which bounds
    memory.
    """

    steps: Mapping[str, int]
    sampler: Mapping[str, str]
    spacing: Mapping[str, str]
    guidance_scale: Mapping[str, float]
    aug_level: Mapping[str, int]
    candidates: Mapping[str, int]
    guidance_interval: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    guidance_rescale: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dynamic_threshold: Mapping[str, float] = dataclasses.field(default_factory=dict)
    fps: float = 3.0
    still_fps: float | None = None
    frame_skip: int = 5
    frames: int = 76
    overlap: int = 4
    size: int = 768
    chunk: int = 4

    def updated(self, changes: Mapping[str, Any]) -> "Settings":
        """A copy with changes; tables are merged, and a single value goes to the decoder.

        Raises ValueError for an unknown name, stage or impossible value.
        """
        values: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in {field.name for field in dataclasses.fields(self)}:
                known = ", ".join(field.name for field in dataclasses.fields(self))
                raise ValueError(f"setting {name!r} is unknown; choose among {known}.")
            table = getattr(self, name)
            if isinstance(table, Mapping):
                value = value if isinstance(value, Mapping) else {"decoder": value}
                unknown = sorted(set(value) - set(SAMPLED))
                if unknown:
                    raise ValueError(
                        f"{name} names the stage {unknown[0]!r}; choose among {', '.join(SAMPLED)}."
                    )
                value = {**table, **value}
            values[name] = value
        return dataclasses.replace(self, **values)

    def of(self, table: str, name: str, default: Any = None) -> Any:
        """What a table says of a name; of extrapolation, else of interpolation."""
        entries = getattr(self, table)
        return entries.get(name, entries.get(network_of(name), default))

    def rows(self, name: str, stages: Mapping[str, Stage]) -> samplers.Rows:
        """The sampler's table for what is called `name`; ValueError if it is impossible."""
        how = (self.of(table, name) for table in ("sampler", "steps", "spacing"))
        try:
            return samplers.table(stages[network_of(name)].process, *how)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def path(self, stages: Mapping[str, Stage]) -> list[str]:
        """The stages that the settings ask for, of those that a cascade has, in order."""
        wanted = ["prior", "decoder"]
        if self.frames > stages["decoder"].frames:
            wanted.append("interpolation")
        return wanted + [
            name
            for name in ("sr_256", "sr_768")
            if name in stages and self.size >= stages[name].size
        ]

    def check(self, cascade: str, stages: Mapping[str, Stage]) -> None:
        """Raises ValueError if a cascade with these stages cannot be sampled so.

        cascade: its name, for the message.
        """
        self._check_kinds()
        sizes = [stages[name].size for name in PICTURES if name in stages]
        if self.size not in sizes:
            raise ValueError(
                f"size={self.size} is impossible; choose {', '.join(map(str, sizes))}."
            )
        clip_frames = stages["decoder"].frames
        if self.frame_skip < 1 or (clip_frames - 1) % self.frame_skip:
            allowed = [str(k) for k in range(1, clip_frames) if (clip_frames - 1) % k == 0]
            raise ValueError(
                f"frame_skip={self.frame_skip} is impossible; choose {', '.join(allowed)}."
            )
        if self.frames < 1 or 1 < self.frames < clip_frames:
            raise ValueError(
                f"frames={self.frames} is impossible; choose 1, {clip_frames} or more."
            )
        if self.frames > clip_frames and "interpolation" not in stages:
            raise ValueError(
                f"frames={self.frames} is impossible, since {cascade} has no interpolation; "
                f"choose {clip_frames}."
            )
        if "interpolation" in stages:
            most = stages["interpolation"].frames - 1
            if not 1 <= self.overlap <= most:
                raise ValueError(
                    f"overlap={self.overlap} is impossible; choose 1 to {most} frames."
                )
        if not 1 <= self.fps <= 30:
            raise ValueError(f"fps={self.fps} is impossible; choose 1 to 30.")
        if self.still_fps is not None and not self.still_fps > self.fps:
            raise ValueError(
                f"still_fps={self.still_fps} must be more than fps={self.fps}; less moves "
                "between frames that follow faster."
            )
        if self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} must be at least 1.")
        for stage, number in self.candidates.items():
            if number < 1 or stage not in ("prior", "decoder"):
                raise ValueError(
                    f"candidates of {stage}={number} are impossible; prior and decoder have 1 or "
                    "more."
                )
        for stage, (low, high) in self.guidance_interval.items():
            if not 0 <= low < high <= 1:
                raise ValueError(
                    f"guidance_interval of {stage}={low},{high} is impossible; it lies between 0 "
                    "(clean) and 1 (noise), the lower end first."
                )
        for stage, share in self.guidance_rescale.items():
            if not 0 <= share <= 1:
                raise ValueError(f"guidance_rescale of {stage}={share} is outside 0 to 1.")
        for stage, share in self.dynamic_threshold.items():
            if not 0 < share < 1:
                raise ValueError(
                    f"dynamic_threshold of {stage}={share} must lie between 0 and 1, as 0.995."
                )
        if self.candidates.get("decoder", 1) > 1 and not stages["clip"].network.image_size:
            raise ValueError(
                f"{cascade} cannot choose among candidates of the decoder, since its CLIP has no "
                "image tower; leave them at 1."
            )
        enlarging = PICTURES[1:]
        for name, level in self.aug_level.items():
            wrong = f"aug_level of {name}={level} is impossible"
            if name not in enlarging:
                raise ValueError(f"{wrong}; {' and '.join(enlarging)} alone have one.")
            most = stages[name].process.schedule.num_timesteps - 1 if name in stages else math.inf
            if not 0 <= level <= most:
                raise ValueError(f"{wrong}; choose 0 (none) to {most}, in timesteps.")
        for name in SAMPLED:
            if network_of(name) in stages and self.of("steps", name) is not None:
                self.rows(name, stages)

    def _check_kinds(self) -> None:
        """Raises ValueError for what is no number, or not a whole or a finite one."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = field.name in WHOLE
            if not whole and field.name not in FINITE:
                continue
            entries = value if isinstance(value, Mapping) else {None: value}
            for stage, entry in entries.items():
                kind = numbers.Integral if whole else numbers.Real
                fits = isinstance(entry, kind) and math.isfinite(entry)
                if not fits and not (field.name == "still_fps" and entry is None):
                    of = field.name if stage is None else f"{field.name} of {stage}"
                    wanted = "a whole number" if whole else "a finite number"
                    raise ValueError(f"{of}={entry!r} must be {wanted}.")


def network_of(name: str) -> str:
    """The stage that does what has settings."""
    return "interpolation" if name == "extrapolation" else name
