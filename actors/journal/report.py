"""A run as one HTML page that needs nothing else: what was sought, what was found, and how it is known.

The page is made from the journal alone, and from the truth if it is handed in; the same journal gives the
same bytes.  Keys of ``truth`` (all optional, SI units):

``maps``
    window index -> {"x_m", "y_m", "values", "shape"}: the true scalar (physical sign) at the candidates.
``map_correlation``
    Pearson r of predicted and true map; computed from ``maps`` of the last window if it is missing.
``space_filling``
    {"correlation", "points"}: the same for space-filling sampling with as many points.
``target``
    {"x_m", "y_m", "name"}: a known place that was to be found; the distance is shown.
``duty_cycle``, ``shares``
    from the truth log: a share of 1, and {"sweeps", "travel", "settling", "frames", "idle", ...}.
``recorded``, ``added``
    lists of sentences about the sample: what of it was recorded on a real instrument, what is made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from actors.journal import curves, maps, page
from actors.journal.maps import MapValues
from actors.journal.reader import JournalReader, Measurement
from actors.journal.report_words import event, label_words, measured_rows, recipe_rows, sample_words
from actors.journal.run_data import RunData, WindowData, load
from actors.journal.wording import duration, explain, nm, place, scalar_name, scalar_words, si
from protocols.messages.records import DriftMeasured

BEST_POINTS = 12


def write_report(reader: JournalReader, path: Path, truth: Mapping[str, Any] | None = None) -> Path:
    """Write the page to ``path`` (whole or not at all) and return it.  See the module for ``truth``.

    Raises:
        DataFormatError: there is no run in the journal yet, or it is damaged.
    """
    run = load(reader)
    content = _Report(run, dict(truth or {})).html()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(content, encoding="utf-8")
    unfinished.replace(path)
    return path


class _Report:
    def __init__(self, run: RunData, truth: dict[str, Any]) -> None:
        self.run = run
        self.truth = truth
        self.campaign = run.started.campaign
        self.name = scalar_name(self.campaign.scalar)
        self.truth_maps = {int(k): _truth_map(v) for k, v in truth.get("maps", {}).items()}
        self.started_s = run.summary.started_s

    def html(self) -> str:
        """The whole page."""
        parts = [self.head(), self.finding(), self.figures_of_merit()]
        parts += [self.window(w) for w in self.run.windows]
        parts += [
            self.best_points(),
            self.decisions(),
            self.drift(),
            self.time(),
            self.events(),
            self.origins(),
        ]
        parts.append(self.appendix())
        return page.page(f"{self.campaign.name}: {self.run.started.run}", "".join(parts))

    # ---- top of the page --------------------------------------------------------------------------------

    def head(self) -> str:
        """Title, what was sought, when and with what."""
        began = datetime.fromtimestamp(self.started_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        spent = duration(self.run.summary.updated_s - self.started_s)
        microscope = "simulated microscope" if self.run.started.simulated else "microscope"
        sample = self.campaign.instrument.sample
        words = f"Run {self.run.started.run}, begun {began}, {spent}, {microscope}, sample {sample}."
        return (
            f"<header><h1>{page.text(self.campaign.name)}</h1>"
            + (page.paragraph(self.campaign.description) if self.campaign.description else "")
            + page.paragraph(words, "quiet")
            + "</header>"
        )

    def finding(self) -> str:
        """Where the most interesting structure is, in two sentences."""
        best = self.run.best
        sought = page.paragraph(f"Sought: {scalar_words(self.campaign.scalar)}.")
        if best is None:
            return (
                sought
                + page.paragraph("No spectrum of this run counts as data yet.", "warning")
                + self.unfinished()
            )
        spectrum = best.spectrum
        words = (
            f"The most interesting structure is at {place(spectrum.sample_x_m, spectrum.sample_y_m)}: "
            f"{self.value(spectrum.scalar)} ({self.name})"
        )
        if best.label is not None:
            words += f"; the classifier says {label_words(best.label)}"
        words += "."
        target = self.truth.get("target")
        if target:
            away = math.hypot(spectrum.sample_x_m - target["x_m"], spectrum.sample_y_m - target["y_m"])
            words += f" The true place of {target.get('name', 'the target')} is {nm(away)} away."
        return sought + page.paragraph(words, "finding") + self.unfinished()

    def unfinished(self) -> str:
        """A warning where the run has no proper end, else nothing."""
        end, state = self.run.conclusion, self.run.summary
        if end is None:
            return page.paragraph(
                f"This run is not finished: its last state is “{state.state}” "
                f"({state.reason or 'no reason given'}). The page shows what is in the journal so far.",
                "warning",
            )
        if end.outcome != "completed":
            return page.paragraph(f"This run was {end.outcome}: {end.reason}.", "warning")
        return page.paragraph(f"The run ended by itself: {end.reason}.")

    def figures_of_merit(self) -> str:
        """Spectra, correlation, duty cycle."""
        run = self.run
        counted = sum(m.counts for m in run.measurements)
        candidates = [w.predicted.x_m.size for w in run.windows if w.predicted is not None]
        out_of = f"out of {sum(candidates)} candidate places" if candidates else "candidates not yet counted"
        entries = [(str(len(run.measurements)), "spectra taken", f"{out_of}; {counted} count as data")]
        correlation = self.correlation()
        if correlation is not None and math.isfinite(correlation):
            beside = self.truth.get("space_filling")
            note = "Pearson r, predicted against true map"
            if beside:
                note += (
                    f"; space-filling sampling with {beside['points']} points: {beside['correlation']:.3f}"
                )
            entries.append((f"{correlation:.3f}", "map correlation", note))
        shares, source = self.shares()
        if "duty cycle" in shares:
            entries.append((f"{100 * shares['duty cycle']:.1f} %", "duty cycle", f"1 - idle/total, {source}"))
        if len(run.windows) > 1:
            widths = " → ".join(f"{w.opened.width_m * 1e9:g}" for w in run.windows)
            entries.append((str(len(run.windows)), "windows", f"{widths} nm wide"))
        times = [d.seconds for d in run.decisions.values()]
        if times:
            entries.append(
                (f"{np.median(times):.2g} s", "median time to decide", f"longest {max(times):.2g} s")
            )
        return page.tiles(entries)

    def correlation(self) -> float | None:
        """Pearson r of the last window's predicted map with the truth, if known."""
        if (given := self.truth.get("map_correlation")) is not None:
            return float(given)
        for window in reversed(self.run.windows):
            true = self.truth_maps.get(window.opened.index)
            if true is not None and window.predicted is not None:
                mean = self.run.sign * np.asarray(window.predicted.mean, dtype=float).ravel()
                both = np.isfinite(mean) & np.isfinite(true.values.ravel())
                if both.sum() > 2:
                    return float(np.corrcoef(mean[both], true.values.ravel()[both])[0, 1])
        known = self.run.conclusion.figures if self.run.conclusion is not None else {}
        return known.get("map_correlation")

    def shares(self) -> tuple[dict[str, float], str]:
        """Shares of the time and where they come from."""
        if "duty_cycle" in self.truth:
            shares = {"duty cycle": float(self.truth["duty_cycle"]), **self.truth.get("shares", {})}
            return shares, "from the instrument's truth log"
        return self.run.time_shares(), "from the times of the jobs in the journal"

    # ---- windows ----------------------------------------------------------------------------------------

    def window(self, window: WindowData) -> str:
        """Maps and spectra of one window."""
        opened = window.opened
        title = f"Window {opened.index + 1}: {opened.width_m * 1e9:g} × {opened.height_m * 1e9:g} nm"  # noqa: RUF001
        words = (
            f"Centre {place(opened.centre_x_m, opened.centre_y_m)}. Chosen because: {opened.chosen_because}."
        )
        if window.closed is not None:
            words += f" Closed because: {window.closed.reason}."
        parts = [page.paragraph(words)]
        if window.measurements or window.survey is not None:
            parts.append(page.gallery(self.maps(window)))
        if window.points:
            parts.append(self.spectra(window))
        return page.section(title, *parts, anchor=f"window-{opened.index + 1}")

    def maps(self, window: WindowData) -> list[str]:
        """Topograph, measured, predicted, uncertainty, truth: the same axes."""
        shown = [
            page.picture(
                maps.topograph(window),
                "Plane taken out; dots: the spectra, coloured by their order. The best point is ringed in "
                "red, here and in the other maps.",
            )
        ]
        sign, predicted = self.run.sign, window.predicted
        mean = None
        if predicted is not None:
            mean = MapValues(predicted.x_m, predicted.y_m, sign * np.asarray(predicted.mean), predicted.shape)  # type: ignore[arg-type]
        true = self.truth_maps.get(window.opened.index)
        limits = maps.map_limits(window, [m for m in (mean, true) if m is not None], sign)
        unit = self.run.unit
        shown.append(
            page.picture(
                maps.measured_map(window, self.name, unit, sign, limits),
                "One dot for each spectrum; grey crosses do not count as data.",
            )
        )
        if predicted is not None and mean is not None:
            std = MapValues(mean.x_m, mean.y_m, np.asarray(predicted.std, dtype=float), mean.shape)
            finite = std.values[np.isfinite(std.values)]
            high = float(finite.max()) if finite.size else 1.0
            shown += [
                page.picture(
                    maps.value_map(window, "Predicted", mean, self.name, unit, limits),
                    f"By the model, from {predicted.observed} points; same colours as measured.",
                ),
                page.picture(
                    maps.value_map(
                        window, "Uncertainty", std, "standard deviation", unit, (0.0, high), "magma"
                    ),
                    "One standard deviation of the prediction: dark is well known.",
                ),
            ]
        if true is not None:
            shown.append(
                page.picture(
                    maps.value_map(window, "Truth", true, self.name, unit, limits, points=False),
                    "Opened after the run and never seen by the planner; same colours as measured.",
                )
            )
        return shown

    def spectra(self, window: WindowData) -> str:
        """Spectra of the best points, and how the window went."""
        section = self.campaign.scalar
        shaded = "" if section.kind == "bandgap" else " Shaded: the bias range of the scalar."
        best = curves.best_spectra(window, section)
        progress = curves.progress(window, self.name, self.run.unit, self.run.sign)
        return page.picture(
            best, f"Spectra of the best points of this window (no. 1 is the ringed one).{shaded}", wide=True
        ) + page.picture(
            progress,
            "Left: the spectra in order. Right: what the model expected (bars: one standard deviation) "
            "against what was measured there.",
            wide=True,
        )

    def best_points(self) -> str:
        """Table of the best points of the deepest window, each with its reason."""
        window = next((w for w in reversed(self.run.windows) if w.points), None)
        if window is None:
            return ""
        order = {m.spectrum.job_id: k for k, m in enumerate(window.measurements, 1)}
        rows = [self.point_row(rank, m, order) for rank, m in enumerate(window.ranked(BEST_POINTS), 1)]
        head = ("no.", "x (nm)", "y (nm)", self.name, "label", "spectrum", "why there")
        return page.section(
            f"The best points of window {window.opened.index + 1}",
            page.table(head, rows, "points"),
            anchor="points",
        )

    def point_row(self, rank: int, measurement: Measurement, order: Mapping[str, int]) -> tuple[object, ...]:
        """One row of the table of best points."""
        spectrum, label = measurement.spectrum, measurement.label
        decision = self.run.decisions.get(spectrum.decision)
        why = (
            explain(decision, measurement, self.run.unit, self.run.sign)
            if decision
            else "asked for by a person"
        )
        said = label_words(label) if label else "none"
        return (
            rank,
            f"{spectrum.sample_x_m * 1e9:.2f}",
            f"{spectrum.sample_y_m * 1e9:.2f}",
            self.value(spectrum.scalar),
            said,
            f"{order[spectrum.job_id]} of {len(order)}",
            why,
        )

    # ---- how it went ------------------------------------------------------------------------------------

    def decisions(self) -> str:
        """Decision times over their index."""
        windows = [w for w in self.run.windows if w.decisions]
        if not windows:
            return ""
        return page.section(
            "Decisions",
            page.picture(
                curves.decision_times(windows),
                "Wall time of each decision. The microscope measures meanwhile and waits only where "
                "one takes longer than the spectra under way.",
                wide=True,
            ),
            anchor="decisions",
        )

    def drift(self) -> str:
        """Drift over time."""
        found = [r.body for r in self.run.drift if isinstance(r.body, DriftMeasured)]
        if not found:
            return page.section(
                "Drift", page.paragraph("Drift was not measured in this run."), anchor="drift"
            )
        ends = {f.job_id: f.ended_s for f in self.run.frames}
        timed = [(ends.get(d.frame_job, d.transform.time_s), d) for d in found]
        last = found[-1].transform
        speed = math.hypot(last.velocity_x_m_s, last.velocity_y_m_s)
        believed = sum(d.accepted for d in found)
        words = (
            f"Registrations of reference frames: {len(found)}, believed: {believed}. Last velocity: "
            f"{speed * 1e12:.2f} pm/s, along x {last.velocity_x_m_s * 1e12:.2f} and along y "
            f"{last.velocity_y_m_s * 1e12:.2f} pm/s."
        )
        rows = [
            (
                duration(t),
                f"{d.shift_x_m * 1e9:.3f}",
                f"{d.shift_y_m * 1e9:.3f}",
                f"{d.confidence:.2f}",
                "yes" if d.accepted else "no",
                d.note,
            )
            for t, d in timed
        ]
        picture = (
            page.picture(curves.drift(timed), "Offset of the sample.", wide=True) if len(timed) > 1 else ""
        )
        head = ("instrument time", "shift x (nm)", "shift y (nm)", "confidence", "believed", "note")
        return page.section(
            "Drift",
            page.paragraph(words),
            picture,
            page.details("All registrations", page.table(head, rows)),
            anchor="drift",
        )

    def time(self) -> str:
        """Where the time went."""
        shares, source = self.shares()
        if not shares:
            return ""
        rows = [(name, f"{100 * share:.1f} %") for name, share in shares.items()]
        return page.section(
            "Where the time went",
            page.table(("", "share of the time"), rows),
            page.paragraph(f"{source.capitalize()}.", "quiet"),
        )

    def events(self) -> str:
        """Faults, holds, people, attempts without result."""
        run = self.run
        records = [*run.faults, *run.operator_actions, *run.states, *run.ended_attempts]
        told = [(r.seq, r.wall_s, *words) for r in records if (words := event(r)) is not None]
        rows = sorted([*told, *self.revoked()])
        if not rows:
            quiet = page.paragraph("Nothing broke, nobody interfered, the run never held.")
            return page.section("Faults, holds and operator actions", quiet, anchor="events")
        shown = [(duration(wall - self.started_s), kind, words) for _, wall, kind, words in rows]
        return page.section(
            "Faults, holds and operator actions",
            page.table(("after", "what", ""), shown, "log"),
            anchor="events",
        )

    def revoked(self) -> list[tuple[int, float, str, str]]:
        """Points that were judged invalid later: (number, wall time, kind, words)."""
        return [
            (
                m.seq,
                m.wall_s,
                "revoked",
                f"{m.spectrum.job_id} no longer counts: {m.validity.reason} (said {m.validity.by})",
            )
            for m in self.run.measurements
            if m.validity is not None and not m.valid
        ]

    # ---- what is what -----------------------------------------------------------------------------------

    def origins(self) -> str:
        """What is recorded, what is simulated, what is computed."""
        sample, started = self.campaign.instrument.sample, self.run.started
        first = [
            page.paragraph(words)
            for words in self.truth.get("recorded", sample_words(sample, started.simulated))
        ]
        first += [page.paragraph(words) for words in self.truth.get("added", ())]
        model = next((m.label.model for m in reversed(self.run.measurements) if m.label is not None), "")
        training = self.campaign.classifier.training or "nothing: it is untrained and says so"
        kernel = self.campaign.planner.kernel
        rows = [
            *measured_rows(sample, started.simulated, started.time_scale),
            ("positions", "computed", "piezo coordinates commanded by the gateway, less the measured drift"),
            (self.name, "computed", "from each spectrum, by the formula of the campaign"),
            ("labels", "predicted", f"by the classifier {model or '(none)'}, trained on: {training}"),
            ("predicted map, uncertainty", "predicted", f"by the planner's model ({kernel})"),
            ("reasons, expectations", "predicted", "by the planner, written down before each spectrum"),
        ]
        if self.truth_maps:
            rows.append(
                ("truth map, map correlation", "added", "from the sample itself, opened after the run")
            )
        if self.truth.get("space_filling"):
            rows.append(("space-filling comparison", "added", "computed after the run on the same sample"))
        table = page.table(("quantity", "is", "how"), rows)
        return page.section("What is recorded and what is added", *first, table, anchor="origins")

    def appendix(self) -> str:
        """Recipe, limits, versions, campaign."""
        started = self.run.started
        figures_known = self.run.conclusion.figures if self.run.conclusion is not None else {}
        more = [(k.replace("_", " "), f"{v:.6g}") for k, v in sorted(figures_known.items())]
        versions = [(k, v) for k, v in sorted(started.versions.items())]
        limits = [(k, f"{v:g}") for k, v in sorted(started.limits.items())]
        return page.section(
            "Recipe and settings",
            page.table(("", ""), recipe_rows(self.campaign.spectrum)),
            page.details("Figures of the run", page.table(("", ""), more)) if more else "",
            page.details("Limits of the gateway in force (SI units)", page.table(("", ""), limits))
            if limits
            else "",
            page.details("Versions and seed", page.table(("", ""), [("seed", str(started.seed)), *versions])),
            page.details("The campaign as it was given", page.preformatted(started.campaign_text)),
            anchor="settings",
        )

    def value(self, scalar: float) -> str:
        """A scalar of a record as its physical value."""
        return si(self.run.sign * scalar, self.run.unit)


def _truth_map(given: Mapping[str, Any]) -> MapValues:
    values = np.asarray(given["values"], dtype=float)
    shape = tuple(given.get("shape") or (values.shape if values.ndim == 2 else ()))
    return MapValues(
        np.asarray(given["x_m"], dtype=float), np.asarray(given["y_m"], dtype=float), values, shape
    )
