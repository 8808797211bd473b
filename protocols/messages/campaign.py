"""A campaign as validated data in SI units: what ``protocols.files.campaign_toml`` reads from a TOML file.

Everything a run needs is in here and journaled with it; actors trust it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocols.messages.recipes import SpectrumRecipe


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of a campaign."""


class InstrumentSection(_Section, frozen=True, kw_only=True):
    """Which microscope.  ``driver`` "sim" starts (or joins) a simulated one with ``sample``; "nanonis" uses
    electronics that are there, unless ``simulated`` says to start the simulated one behind those ports."""

    driver: Literal["sim", "nanonis"] = "sim"
    address: str = ""
    """Of the electronics, for "nanonis" (``protocols.nanonis.address``); "": the usual ports here."""
    simulated: bool = False
    """With "nanonis": start the simulated microscope with ``sample`` at ``address``."""
    sample: str = "vacancy"
    """Simulated sample: "vacancy", "terraces", or "recorded:PATH" (a .3ds file; "recorded:demo" is ours)."""
    sample_seed: int | None = None
    """Seed of the surface; None: the campaign's seed."""
    time_scale: float = 1.0

    @property
    def starts_simulator(self) -> bool:
        """Whether a simulated microscope is started for the campaign."""
        return self.driver == "sim" or self.simulated


class ImagingSection(_Section, frozen=True, kw_only=True):
    """How frames are taken."""

    bias_v: float
    setpoint_a: float
    pixels: int
    line_time_s: float
    """Forward time of one line."""
    reference_width_m: float = 0.0
    """Width of the reference patch for drift; 0: a quarter of the window."""
    reference_pixels: int = 64


class ScalarSection(_Section, frozen=True, kw_only=True):
    """How a spectrum becomes the number that is sought.

    kinds: "integral" (of ``channel`` over window), "ratio" (integral over window / integral over reference;
    eq. 2 of Narasimha et al.), "bandgap", "onset" (bias at which |channel| exceeds ``threshold``).
    """

    kind: Literal["integral", "ratio", "bandgap", "onset"]
    channel: str = "lockin_x"
    window_v: tuple[float, float] = (0.0, 0.5)
    reference_v: tuple[float, float] = (0.0, 1.5)
    threshold: float = 0.0
    sign: Literal[1, -1] = 1
    """-1 seeks the smallest value."""


class PlannerSection(_Section, frozen=True, kw_only=True):
    """How the next point is chosen.

    kernel: "matern_xy" (anisotropic Matern on position), "dkl" (deep kernel on patches),
    "dkl_xy" (sum of both), "pca_xy".
    acquisition: "variance", "ucb" (annealed beta), "ei", "sig" (Shannon information gain), "covariance".
    """

    kernel: Literal["matern_xy", "dkl", "dkl_xy", "pca_xy"] = "dkl_xy"
    acquisition: Literal["variance", "ucb", "ei", "sig", "covariance"] = "ucb"
    seed_points: int = 20
    points: int = 60
    """Spectra per window, seeds included: the largest number; the stop rule may end earlier."""
    patch_pixels: int = 16
    candidate_step: int = 8
    """Pixels between candidate positions; with "grid" candidates every pixel of a recorded grid."""
    beta_start: float = 10.0
    beta_decay: float = 0.9
    beta_end: float = 0.001
    fit_steps: int = 100
    learning_rate: float = 0.05
    travel_weight: float = 0.0
    """Share of the acquisition range that a hop across the whole window costs."""
    stop_uncertainty: float = 0.0
    """Stop early when the mean predicted standard deviation over the prior's falls below this; 0: never."""


class ZoomSection(_Section, frozen=True, kw_only=True):
    """The windows, largest first (m).  ``selection`` "sum" is the paper's sum of predicted scalars,
    "peak" the window about the best supported point."""

    widths_m: tuple[float, ...]
    centre_x_m: float = 0.0
    centre_y_m: float = 0.0
    angle_rad: float = 0.0
    selection: Literal["sum", "peak", "random"] = "peak"


class DriftSection(_Section, frozen=True, kw_only=True):
    """How often drift is measured (every so many spectra; 0: never) and how much is believed."""

    every: int = 10
    max_velocity_m_s: float = 1e-9
    minimum_confidence: float = 0.5


class ClassifierSection(_Section, frozen=True, kw_only=True):
    """Which labelled spectra the classifier is trained on; "" means untrained: it says so."""

    training: str = ""
    confidence: float = 0.8


class AuxiliarySection(_Section, frozen=True, kw_only=True):
    """An instrument beside the microscope, on a serial port: the table ``[auxiliary.NAME]``.

    Times are wall seconds, whatever the time scale: the instrument does not know of it.
    """

    name: str
    model: Literal["sr830", "lakeshore335", "lakeshore336"]
    port: str = ""
    """Device file, name (or part of one) in /dev/serial/by-id, "simulated", or "": as the site's ports.toml
    says."""
    baud: int = 0
    """0: what the instrument's manual says."""
    timeout_s: float = 1.0
    """An answer that has not come after this time is no answer."""
    period_s: float = 1.0
    """Between two readings."""
    journal_period_s: float = 10.0
    """Between two readings in the journal; those that hold or resume the run are there too."""
    inputs: tuple[str, ...] = ("A",)
    """Inputs that are read (temperature controllers)."""
    required: bool = True
    """Whether the run holds while the instrument does not answer."""
    amplitude_v: float | None = None
    """Lock-in amplifier: rms of its sine output, set before the run and read back; None: left as it is."""
    frequency_hz: float | None = None
    time_constant_s: float | None = None


class WaitSection(_Section, frozen=True, kw_only=True):
    """A reading that must lie in a band, or the run holds: one ``[[wait_on]]``.  Values in the quantity's SI
    unit; times in wall seconds."""

    instrument: str
    """Name of an [auxiliary.NAME]."""
    channel: str
    """"A" to "D" for a temperature, "x", "y", "amplitude", "frequency", "time_constant" for a lock-in."""
    low: float
    high: float
    hysteresis: float = 0.0
    """So far inside the band it must be before the run goes on."""
    hold_after_s: float = 5.0
    """The run holds when it was outside, or not to be had, for so long."""
    resume_after_s: float = 30.0
    """And goes on when it was inside for so long."""
    withdraw: bool = True
    """Withdraw the tip meanwhile: a temperature that moves moves the tip."""


class LimitsSection(_Section, frozen=True, kw_only=True):
    """A campaign may only narrow the gateway's limits; same names as in the limits file."""

    values: dict[str, float] = {}


class Campaign(_Section, frozen=True, kw_only=True):
    """One campaign, all of it."""

    name: str
    description: str = ""
    seed: int = 0
    lockstep: bool = False
    on_alarm: str = ""
    """A command of the user's, run with the reason as its last argument when the run holds."""
    instrument: InstrumentSection
    imaging: ImagingSection
    spectrum: SpectrumRecipe
    scalar: ScalarSection
    planner: PlannerSection = PlannerSection()
    zoom: ZoomSection
    drift: DriftSection = DriftSection()
    classifier: ClassifierSection = ClassifierSection()
    auxiliary: tuple[AuxiliarySection, ...] = ()
    wait_on: tuple[WaitSection, ...] = ()
    limits: LimitsSection = LimitsSection()
