"""Surfaces made of atoms, and the junction between such a surface and a tip made of atoms.

The current is the double sum of ``physics.tunneling`` over sample and tip atoms; the densities of states of
the sample's atoms come from tight binding (``physics.ldos_tables``).  Where an atom "is" for tunneling is the
lobe of the orbital that reaches into the vacuum, ``LOBE_M`` in front of its nucleus, on either side of the
gap; the two touch (``contact``) when nuclei of sample and tip are ``NUCLEI_M`` apart.  Height 0 is contact
above an atom of the perfect surface.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_hardware.junction import Profile
from sim_hardware.physics.atomic_kernels import CUT, Decay, Scene, TipAtoms, kind_sums, linearised, touching
from sim_hardware.physics.energy_window import EnergyWindow
from sim_hardware.physics.tunneling import Atoms, Barrier, DensityTable
from sim_hardware.surfaces.atom_field import AtomField
from sim_hardware.surfaces.base import SurfaceObject
from sim_hardware.tip import Tip
from sim_hardware.tunneling import CONTACT_CONDUCTANCE_S

Floats = npt.NDArray[np.float64]

NUCLEI_M = 0.28e-9
"""Distance of the nuclei of sample and tip in contact."""
LOBE_M = 0.115e-9
"""From a nucleus to the lobe of its outermost p_z or d_z2 orbital."""
GAP_AT_CONTACT_M = NUCLEI_M - 2.0 * LOBE_M
"""Distance of the lobes in contact."""
LOWEST_M, HIGHEST_M = 0.03e-9, 2.5e-9
"""Heights of the tip's lobe above the sample's between which currents are summed; beyond, ln |I| goes on as a
straight line."""
PROBE_M = 0.3e-9
"""Height above contact of the point-like probe that ``true_density`` sees with."""
LEAST_A = 1e-30
COARSE = 50
"""A tip without a resonance leans linearly: every so many energies of its table will do."""
_MARGIN_M = 2.6e-9
"""Sideways from a tip atom no sample atom counts beyond this at the greatest height."""


class AtomisticSurface:
    """Atoms with densities of states.

    ``transparency``: conductance of a pair in contact, in conductance quanta, where both densities are 1;
    ``tip_energies_v``: where the tip's density is tabulated for this sample; ``background``: density added to
    every atom, of a substrate that is seen through it.
    """

    def __init__(
        self,
        name: str,
        extent_m: float,
        field: AtomField,
        objects: tuple[SurfaceObject, ...],
        transparency: float,
        work_function_ev: float,
        temperature_k: float,
        tip_energies_v: Floats,
        background: float = 0.0,
    ) -> None:
        self.name = name
        self.extent_m = extent_m
        self.field = field
        self.objects = objects
        self.work_function_ev = work_function_ev
        self.temperature_k = temperature_k
        self.tip_energies_v = tip_energies_v
        self.transparency = transparency
        self.cut = CUT
        """Exponent beyond which pairs of atoms are left out; less is faster."""
        table = field.table
        self._densities = table.densities + background
        self.states = DensityTable(table.energies_v, transparency * self._densities)
        """Densities of the kinds, times the transparency."""

    def junction(self, tip: Tip, work_function_ev: float | None = None) -> AtomisticJunction:
        """This surface under a tip; None: the sample's own work function."""
        return AtomisticJunction(self, tip, work_function_ev or self.work_function_ev)

    def atoms(self, low: tuple[float, float], high: tuple[float, float]) -> Atoms:
        """The visible atoms (at their lobes) in a rectangle of the sample (x, y in m)."""
        positions, kinds = self.field.atoms(low, high)
        return Atoms(positions, kinds, self.states)

    def true_density(self, x_m: float, y_m: float, energy_v: Floats) -> Floats:
        """The noise-free density of states at one point (shape of ``energy_v``).

        The mean over the atoms below, weighted as a point-like tip ``PROBE_M`` above contact weighs them.
        """
        energy = np.asarray(energy_v, dtype=np.float64)
        decay = Decay(2.0 * Barrier(self.work_function_ev).kappa, GAP_AT_CONTACT_M)
        point = TipAtoms(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64))
        x, y = np.array([float(x_m)]), np.array([float(y_m)])
        scene = self.field.scene(x, y, _MARGIN_M)
        surface = float(self.field.surface(x, y)[0])
        height = np.array([surface + GAP_AT_CONTACT_M + PROBE_M])
        shares, _ = kind_sums(x[0], y[0], height, surface, scene, point, decay, (self.states.kinds, 1))
        share = shares[0, :, 0] / shares.sum()
        there = np.nonzero(share)[0]
        table = DensityTable(self.states.energies_v, self._densities[there])
        return np.asarray((share[there] @ table.at(energy.ravel())).reshape(energy.shape))


class AtomisticJunction:
    """A tip of atoms over a surface of atoms."""

    def __init__(self, surface: AtomisticSurface, tip: Tip, work_function_ev: float) -> None:
        self.surface = surface
        self.tip = tip
        self.barrier = Barrier(work_function_ev, GAP_AT_CONTACT_M, surface.temperature_k)
        self.kappa = self.barrier.kappa
        resonant = tip.recipe.resonance is not None
        self.tip_atoms = tip.recipe.make(surface.tip_energies_v[:: 1 if resonant else COARSE])
        """The tip, its origin at z = 0."""
        x, y, z = (np.ascontiguousarray(c) for c in self.tip_atoms.positions_m.T)
        self._tip = TipAtoms(x, y, z, self.tip_atoms.kinds.astype(np.int64))
        self._margin = _MARGIN_M + float(np.hypot(x, y).max())
        self._decay = Decay(2.0 * self.kappa, GAP_AT_CONTACT_M, surface.cut)
        self._window = EnergyWindow(surface.states.energies_v, self.tip_atoms.states, surface.temperature_k)

    def profile(self, x_m: Floats, y_m: Floats, bias_v: float, near_a: float) -> Profile:
        """At n places (n,) for one bias, linearised where |I| is about ``near_a`` (A)."""
        x, y, scene, surface = self._look(x_m, y_m)
        weights = self._window.weights(self.surface.states.densities, bias_v)
        goal = float(np.log(max(near_a, LEAST_A) / CONTACT_CONDUCTANCE_S))
        height, log, decay = linearised(
            x, y, surface, goal, (LOWEST_M, HIGHEST_M), scene, self._tip, self._decay, weights
        )
        return Profile(height, log + np.log(CONTACT_CONDUCTANCE_S), decay, self._touch(x, y, scene))

    def bias_profile(self, x_m: float, y_m: float, biases_v: Floats, height_m: float) -> Profile:
        """At one place for m biases (m,), linearised at a height (or as near to it as currents are
        summed)."""
        x, y, scene, surface = self._look(np.array([x_m]), np.array([y_m]))
        shown = np.array([self._shown(np.array([height_m]), surface[0])[0]])
        shares, slopes = self._sums(x[0], y[0], shown, surface[0], scene)
        response = self._window.responses(biases_v).integral
        value = np.abs(np.einsum("mgt,gt->m", response, shares[0]))
        fall = np.abs(np.einsum("mgt,gt->m", response, slopes[0]))
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(CONTACT_CONDUCTANCE_S * value)
            decay = np.where(value > 0.0, fall / value, 2.0 * self.kappa)
        touch = np.full(value.shape, self._touch(x, y, scene)[0])
        return Profile(np.full(value.shape, shown[0]), log, decay, touch)

    def conductance(self, x_m: float, y_m: float, height_m: Floats, biases_v: Floats) -> Floats:
        """|dI/dV| (S) at one place with the tip held at heights (m,), for as many biases: (m,)."""
        x, y, scene, surface = self._look(np.array([x_m]), np.array([y_m]))
        wanted = np.broadcast_to(np.asarray(height_m, dtype=np.float64), np.shape(biases_v))
        heights, which = np.unique(wanted, return_inverse=True)
        shown = self._shown(heights, surface[0])
        shares, slopes = self._sums(x[0], y[0], shown, surface[0], scene)
        response = self._window.responses(biases_v).slope
        value = np.abs(np.einsum("mgt,mgt->m", response, shares[which]))
        beyond = wanted - shown[which]
        if np.any(beyond):
            fall = np.abs(np.einsum("mgt,mgt->m", response, slopes[which]))
            decay = np.divide(fall, value, out=np.full(value.shape, 2.0 * self.kappa), where=value > 0.0)
            value = value * np.exp(-decay * beyond)
        return np.asarray(CONTACT_CONDUCTANCE_S * value)

    def contact(self, x_m: Floats, y_m: Floats) -> Floats:
        """Height (m) at which the nuclei of the first pair are ``NUCLEI_M`` apart, at n places: (n,)."""
        x, y, scene, _ = self._look(x_m, y_m)
        return self._touch(x, y, scene)

    def _look(self, x_m: Floats, y_m: Floats) -> tuple[Floats, Floats, Scene, Floats]:
        x = np.ascontiguousarray(x_m, dtype=np.float64)
        y = np.ascontiguousarray(y_m, dtype=np.float64)
        field = self.surface.field
        return x, y, field.scene(x, y, self._margin), field.surface(x, y)

    def _touch(self, x: Floats, y: Floats, scene: Scene) -> Floats:
        return touching(x, y, NUCLEI_M, scene, self._tip) - 2.0 * LOBE_M

    def _shown(self, heights_m: Floats, surface_m: float) -> Floats:
        """The nearest heights at which currents are summed."""
        return np.asarray(np.clip(heights_m, surface_m + LOWEST_M, surface_m + HIGHEST_M))

    def _sums(
        self, x: float, y: float, heights_m: Floats, surface_m: float, scene: Scene
    ) -> tuple[Floats, Floats]:
        """What the tip's kinds see of the sample's density at its energies, and its derivative by height:
        (heights, energies, tip kinds) each."""
        states = self.surface.states
        kinds = (states.kinds, self.tip_atoms.states.kinds)
        shares, slopes = kind_sums(x, y, heights_m, surface_m, scene, self._tip, self._decay, kinds)
        seen = np.einsum("hkt,kg->hgt", shares, states.densities, optimize=True)
        steep = np.einsum("hkt,kg->hgt", slopes, states.densities, optimize=True)
        return seen, steep
