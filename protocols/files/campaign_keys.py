"""Every key of a campaign file: which field it fills, its dimension, its range, and what it means.

Written by hand, once: the reader, its error texts, the commented file of ``stmctl init`` and the table in the
README all come from here.  Defaults are those of the structs in ``protocols.messages.campaign``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from protocols.files.quantities import DIMENSIONS, format_quantity
from protocols.instrument.auxiliary import MODELS
from protocols.messages.campaign import (
    AuxiliarySection,
    Campaign,
    ClassifierSection,
    DriftSection,
    ImagingSection,
    InstrumentSection,
    PlannerSection,
    ScalarSection,
    WaitSection,
    ZoomSection,
)
from protocols.messages.recipes import LockIn, SpectrumRecipe

Kind = Literal[
    "text",
    "choice",
    "names",
    "whole",
    "number",
    "switch",
    "quantity",
    "interval",
    "lengths",
    "threshold",
    "seek",
]
"""How a value is written: a quoted text, one of some texts, a list of them, a whole number, a plain number,
true or false, a quantity with its unit, two voltages, several lengths, a quantity whose unit
depends on the channel, a word for the sign."""


@dataclass(frozen=True)
class Key:
    """One key of a section."""

    name: str
    fills: str
    """Field of the section's struct."""
    kind: Kind
    help: str
    example: str
    """As it stands in a file, quotes included."""
    dimension: str = ""
    low: float = -math.inf
    high: float = math.inf
    above_zero: bool = False
    """Zero itself is refused too."""
    choices: tuple[str, ...] = ()

    def allowed(self) -> str:
        """The allowed range or choices in words; empty if everything of its kind is."""
        if self.choices:
            return "one of " + ", ".join(f'"{c}"' for c in self.choices)
        unit = DIMENSIONS[self.dimension].unit if self.dimension else ""
        low, high = (
            format_quantity(v, unit) if self.kind != "whole" else f"{v:.0f}" for v in (self.low, self.high)
        )
        if self.above_zero:
            low = "more than 0"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{low} to {high}" if not self.above_zero else f"{low}, at most {high}"
        if math.isfinite(self.low):
            return low if self.above_zero else f"at least {low}"
        return f"at most {high}" if math.isfinite(self.high) else ""


@dataclass(frozen=True)
class Section:
    """One table of the file; ``path`` is its name in brackets, empty for the keys before the first table."""

    path: str
    struct: type[msgspec.Struct]
    help: str
    keys: tuple[Key, ...]
    required: bool = True
    by_name: dict[str, Key] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {key.name: key for key in self.keys})

    def default(self, key: Key) -> Any:
        """The field's default, or ``msgspec.NODEFAULT`` for a key that must be given."""
        for found in msgspec.structs.fields(self.struct):
            if found.name == key.fills:
                return found.default
        raise KeyError(f"{self.struct.__name__} has no field {key.fills}")


_NAME = r"letters, digits, - and _, at most 40"

# fmt: off
SECTIONS: tuple[Section, ...] = (
    Section(
        "", Campaign, "The campaign as a whole.",
        (
            Key("name", "name", "text",
                "Name of the campaign; runs are named after it (letters, digits, - and _, at most 40).",
                '"my_campaign"'),
            Key("description", "description", "text",
                "What it is for, in a sentence.",
                '"Where is the vacancy?"'),
            Key("seed", "seed", "whole", "Seed of everything random.", "1", low=0, high=2**31 - 1),
            Key("lockstep", "lockstep", "switch",
                "Decision k always sees the same results: exactly repeatable, for tests and comparisons.",
                "false"),
            Key("on_alarm", "on_alarm", "text",
                "A command run when the run holds and waits for a person; the reason is its last argument.",
                '"notify-send Tunnelpilot"'),
        ),
    ),
    Section(
        "instrument", InstrumentSection, "Which microscope.",
        (
            Key("driver", "driver", "choice",
                'Electronics: "sim" is the simulated microscope, "nanonis" speaks the Nanonis TCP protocol.',
                '"sim"', choices=("sim", "nanonis")),
            Key("address", "address", "text",
                'Host and four ports, for "nanonis"; "" are the usual ones of this computer.',
                '"127.0.0.1:6501-6504"'),
            Key("simulated", "simulated", "switch",
                'With "nanonis": no real electronics, start the simulated microscope at that address.',
                "false"),
            Key("sample", "sample", "text",
                'Simulated sample: "vacancy", "terraces", "recorded:demo" or "recorded:FILE.3ds".',
                '"vacancy"'),
            Key("sample_seed", "sample_seed", "whole",
                "Seed of the surface; without it the campaign's seed.",
                "7", low=0, high=2**31 - 1),
            Key("time_scale", "time_scale", "number",
                "Instrument seconds per wall second; other than 1 only in simulation.",
                "20.0", low=0.01, high=1000),
        ),
        required=False,
    ),
    Section(
        "imaging", ImagingSection, "How frames are taken: at constant current, forward and backward.",
        (
            Key("bias", "bias_v", "quantity",
                "Sample bias while scanning; never 0.",
                '"1.0V"', dimension="voltage", low=-10, high=10),
            Key("setpoint", "setpoint_a", "quantity",
                "Tunneling current kept while scanning.",
                '"50pA"', dimension="current", low=1e-13, high=1e-07),
            Key("pixels", "pixels", "whole",
                "Pixels of a line, and lines of a frame.",
                "128", low=8, high=2048),
            Key("line_time", "line_time_s", "quantity",
                "Time of one forward line.",
                '"0.4s"', dimension="time", low=0.001, high=600),
            Key("reference_width", "reference_width_m", "quantity",
                "Width of the small frame that measures drift; 0nm takes a quarter of the window.",
                '"20nm"', dimension="length", low=0, high=1e-05),
            Key("reference_pixels", "reference_pixels", "whole",
                "Pixels and lines of that small frame.",
                "64", low=8, high=512),
        ),
    ),
    Section(
        "spectrum", SpectrumRecipe,
        "One spectrum: stabilise, hold the controller, offset the tip, sweep the bias, return, release.",
        (
            Key("stabilise_bias", "stabilise_bias_v", "quantity",
                "Bias at which the height is fixed before the sweep; same sign as the imaging bias.",
                '"1.0V"', dimension="voltage", low=-10, high=10),
            Key("stabilise_current", "stabilise_current_a", "quantity",
                "Current at which the height is fixed.",
                '"100pA"', dimension="current", low=1e-13, high=1e-07),
            Key("settle", "settle_s", "quantity",
                "Waiting with feedback on before the controller is held.",
                '"50ms"', dimension="time", low=0, high=600),
            Key("z_offset", "z_offset_m", "quantity",
                "Tip movement after the hold: negative is toward the sample.",
                '"0pm"', dimension="length", low=-2e-09, high=1e-07),
            Key("start", "start_v", "quantity",
                "First bias of the sweep.",
                '"-0.5V"', dimension="voltage", low=-10, high=10),
            Key("stop", "stop_v", "quantity",
                "Last bias of the sweep; above the first.",
                '"1.5V"', dimension="voltage", low=-10, high=10),
            Key("points", "points", "whole", "Samples from start to stop.", "201", low=2, high=65536),
            Key("dwell", "dwell_s", "quantity",
                "Time per sample; at least three lock-in time constants.",
                '"4ms"', dimension="time", low=1e-06, high=60),
            Key("repeats", "repeats", "whole", "How often the sweep is made.", "1", low=1, high=1000),
            Key("backward", "backward", "switch",
                "Sweep back as well: forward and backward that disagree mark a bad spectrum.",
                "true"),
        ),
    ),
    Section(
        "spectrum.lockin", LockIn,
        "The lock-in that measures dI/dV; leave the table out to measure the current alone.",
        (
            Key("amplitude", "amplitude_v", "quantity",
                "Modulation, peak.",
                '"10mV"', dimension="voltage", low=1e-06, high=1),
            Key("frequency", "frequency_hz", "quantity",
                "Modulation frequency.",
                '"4.3kHz"', dimension="frequency", low=1, high=1000000.0),
            Key("time_constant", "time_constant_s", "quantity",
                "Of the lock-in's low-pass filter.",
                '"1ms"', dimension="time", low=1e-06, high=10),
        ),
        required=False,
    ),
    Section(
        "scalar", ScalarSection, "The one number made of a spectrum, which the run seeks.",
        (
            Key("kind", "kind", "choice",
                '"integral" over window, "ratio" of the integrals over window and reference, "bandgap", '
                '"onset" (bias at which the channel exceeds threshold).',
                '"ratio"', choices=("integral", "ratio", "bandgap", "onset")),
            Key("channel", "channel", "choice",
                "Measured channel.",
                '"lockin_x"', choices=("lockin_x", "lockin_y", "current")),
            Key("window", "window_v", "interval",
                "Bias interval; within the sweep.",
                '["0V", "0.5V"]', dimension="voltage", low=-10, high=10),
            Key("reference", "reference_v", "interval",
                'Bias interval that a "ratio" is divided by; within the sweep.',
                '["0V", "1.5V"]', dimension="voltage", low=-10, high=10),
            Key("threshold", "threshold", "threshold",
                'For "onset" (volts for lock-in channels, amperes for the current).',
                '"20mV"', low=0),
            Key("seek", "sign", "seek",
                "Which values are interesting.",
                '"largest"', choices=("largest", "smallest")),
        ),
    ),
    Section(
        "planner", PlannerSection, "How the next point is chosen.",
        (
            Key("kernel", "kernel", "choice",
                '"matern_xy" on position, "dkl" a deep kernel on image patches, "dkl_xy" their sum, '
                '"pca_xy" on principal components of patches.',
                '"dkl_xy"', choices=("matern_xy", "dkl", "dkl_xy", "pca_xy")),
            Key("acquisition", "acquisition", "choice",
                '"variance", "ucb" (annealed), "ei" (expected improvement), "sig" (Shannon information '
                'gain), "covariance".',
                '"ucb"', choices=("variance", "ucb", "ei", "sig", "covariance")),
            Key("seed_points", "seed_points", "whole",
                "Space-filling points before the model decides.",
                "20", low=1, high=10000),
            Key("points", "points", "whole",
                "Most spectra per window, seeds included.",
                "60", low=1, high=100000),
            Key("patch_pixels", "patch_pixels", "whole",
                "Side of the image patch about a candidate.",
                "16", low=3, high=128),
            Key("candidate_step", "candidate_step", "whole",
                "Pixels between candidate positions.",
                "8", low=1, high=512),
            Key("beta_start", "beta_start", "number",
                'Exploration of "ucb" at the beginning.',
                "10.0", low=0, high=1000000.0),
            Key("beta_decay", "beta_decay", "number", "Factor per decision.", "0.9", low=0, high=1),
            Key("beta_end", "beta_end", "number", "It falls no lower.", "0.001", low=0, high=1000000.0),
            Key("fit_steps", "fit_steps", "whole", "Optimiser steps per decision.", "100", low=1, high=10000),
            Key("learning_rate", "learning_rate", "number", "Of the optimiser.", "0.05", low=1e-06, high=1),
            Key("travel_weight", "travel_weight", "number",
                "Share of the acquisition's range that a hop across the window costs.",
                "0.0", low=0, high=10),
            Key("stop_uncertainty", "stop_uncertainty", "number",
                "Stop early when the mean predicted deviation, over the prior's, is below this; 0 never.",
                "0.0", low=0, high=1),
        ),
        required=False,
    ),
    Section(
        "zoom", ZoomSection, "The windows, from the first to the last.",
        (
            Key("widths", "widths_m", "lengths",
                "Width of each window, largest first.",
                '["200nm", "100nm", "20nm"]', dimension="length", low=1e-10, high=0.0001),
            Key("centre_x", "centre_x_m", "quantity",
                "Centre of the first window.",
                '"0nm"', dimension="length", low=-0.001, high=0.001),
            Key("centre_y", "centre_y_m", "quantity",
                "Centre of the first window.",
                '"0nm"', dimension="length", low=-0.001, high=0.001),
            Key("angle", "angle_rad", "quantity",
                "Turns the windows, counter-clockwise.",
                '"0deg"', dimension="angle", low=-math.pi, high=math.pi),
            Key("selection", "selection", "choice",
                'The next window: "peak" about the best supported point, "sum" where the predicted scalars '
                'sum to most, "random" for comparison.',
                '"peak"', choices=("sum", "peak", "random")),
        ),
    ),
    Section(
        "drift", DriftSection, "How drift is measured and how much of it is believed.",
        (
            Key("every", "every", "whole",
                "Measure after so many spectra; 0 never.",
                "10", low=0, high=100000),
            Key("max_velocity", "max_velocity_m_s", "quantity",
                "A measured drift above this is not believed.",
                '"1nm/s"', dimension="drift", low=0, high=1e-06, above_zero=True),
            Key("minimum_confidence", "minimum_confidence", "number",
                "A registration less certain than this is not believed.",
                "0.5", low=0, high=1),
        ),
        required=False,
    ),
    Section(
        "classifier", ClassifierSection, "What labels each spectrum inside the loop.",
        (
            Key("training", "training", "text",
                'Labelled spectra it is trained on ("vacancy", ...); "" leaves it untrained, and it says '
                "so.",
                '""'),
            Key("confidence", "confidence", "number",
                "Labels less certain than this are marked so.",
                "0.8", low=0, high=1),
        ),
        required=False,
    ),
)
"""All sections in the file's order, but for [limits], whose keys are those of the gateway's limits file, and
for the tables of which there may be any number."""

AUXILIARY = Section(
    "auxiliary.NAME", AuxiliarySection,
    "An instrument beside the microscope, on a serial port; its readings are journaled.  NAME is free.",
    (
        Key("model", "model", "choice",
            "Which instrument: SR830 lock-in amplifier, Lake Shore 335 or 336 temperature controller.",
            '"lakeshore335"', choices=tuple(MODELS)),
        Key("port", "port", "text",
            'Device file, or (part of) its name in /dev/serial/by-id, or "simulated"; "" takes it from '
            "[ports] of ports.toml in the state directory.",
            '"/dev/ttyUSB0"'),
        Key("baud", "baud", "whole",
            "Speed of the line; 0 as in the manual (SR830 9600, Lake Shore 57600).", "0", low=0, high=115200),
        Key("timeout", "timeout_s", "quantity",
            "An answer that takes longer is none.", '"1s"', dimension="time", low=0.05, high=30),
        Key("period", "period_s", "quantity",
            "Between two readings (of the wall clock, as all times here).",
            '"1s"', dimension="time", low=0.1, high=3600),
        Key("journal_period", "journal_period_s", "quantity",
            "Between two readings in the journal; those that make the run wait or go on are there too.",
            '"10s"', dimension="time", low=1, high=86400),
        Key("inputs", "inputs", "names",
            "Lake Shore: which inputs are read.", '["A"]', choices=("A", "B", "C", "D")),
        Key("required", "required", "switch",
            "The run waits while the instrument does not answer.", "true"),
        Key("amplitude", "amplitude_v", "quantity",
            "SR830: rms of its sine output, set before the run and read back; without this key as it is.",
            '"10mV"', dimension="voltage", low=0.004, high=5),
        Key("frequency", "frequency_hz", "quantity",
            "SR830: its internal reference, set and read back.",
            '"973Hz"', dimension="frequency", low=0.001, high=102000),
        Key("time_constant", "time_constant_s", "quantity",
            "SR830: 10us, 30us, 100us ... 30ks, set and read back.",
            '"30ms"', dimension="time", low=1e-5, high=30000),
    ),
    required=False,
)

WAIT_ON = Section(
    "wait_on", WaitSection,
    "A reading that must lie in a band: the run waits while it does not, and goes on by itself.",
    (
        Key("instrument", "instrument", "text", "NAME of an [auxiliary.NAME].", '"temperature"'),
        Key("channel", "channel", "choice",
            "Which of its readings.", '"A"',
            choices=tuple(dict.fromkeys(q.name for m in MODELS.values() for q in m.channels))),
        Key("low", "low", "quantity", "Lower end of the band, in the channel's unit.", '"4.0K"',
            dimension="temperature"),
        Key("high", "high", "quantity", "Upper end of the band.", '"4.6K"', dimension="temperature"),
        Key("hysteresis", "hysteresis", "quantity",
            "So far inside the band the reading must be before the run goes on.", '"0K"',
            dimension="temperature", low=0),
        Key("hold_after", "hold_after_s", "quantity",
            "The run waits when the reading was outside, or not to be had, for so long.",
            '"5s"', dimension="time", low=0, high=86400),
        Key("resume_after", "resume_after_s", "quantity",
            "And goes on when it was inside for so long.",
            '"30s"', dimension="time", low=0, high=86400),
        Key("withdraw", "withdraw", "switch",
            "Withdraw the tip while the run waits; false leaves it in feedback.", "true"),
    ),
    required=False,
)
# fmt: on

REPEATED = (AUXILIARY, WAIT_ON)
"""Tables of which there may be any number."""

LIMITS_HELP = "A campaign may narrow the gateway's limits, never widen them; same keys as in the limits file."
