"""A free-electron-like surface state: its density of states, and the waves that impurities and steps make.

E in eV from the Fermi level; k(E) = sqrt(2 m (E - E0)) / hbar with m = 0.26 of the electron's mass and
E0 = -0.52 eV on Au(111): C. Wang et al., Machine Learning Identification of Impurities in the STM Images,
appendix (the mass from W. Chen et al., Phys. Rev. Lett. 80, 1469 (1998)).

- Density of states of a two-dimensional band with lifetime broadening: 1/2 + arctan(2 (E - E0) / width) / pi
  (J. Li, W.-D. Schneider, R. Berndt, O. R. Bryant and S. Crampin, Phys. Rev. Lett. 81, 4464 (1998)).
- An impurity scatters s waves: the density changes by Re[t H0(kr)^2], t = (alpha e^{2 i delta} - 1) / 2, with
  the Hankel function H0 of the first kind (E. J. Heller, M. F. Crommie, C. P. Lutz and D. M. Eigler, Nature
  369, 464 (1994)); alpha = 0 absorbs everything.  Far away this is the universal
  (alpha cos(2 k r + 2 delta - pi / 2) - cos(2 k r - pi / 2)) / (pi k r).
- Within about 1 / k the density is not universal: the wave is faded out and a bound state of the impurity
  takes its place (Wang et al., fig. 5: states below the onset on defects).
- At a straight step edge: 1 - r J0(2 k x) (M. F. Crommie et al., Nature 363, 524 (1993);
  L. C. Davis et al., Phys. Rev. B 43, 3821 (1991)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import constants
from scipy.special import hankel1, jv

from protocols.errors import UsageError

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

_LEAST_KR = 1e-3
"""The Hankel function is infinite at the impurity itself; nearer than this the core has long taken over."""


@dataclass(frozen=True)
class SurfaceState:
    """A band of a two-dimensional electron gas: Au(111) unless told otherwise.

    ``mass``: effective mass over the electron's; ``onset_ev``: E0; ``width_ev``: full width hbar / lifetime,
    which fades the waves, too.
    """

    mass: float = 0.26
    onset_ev: float = -0.52
    width_ev: float = 0.02

    def wave_vector(self, energy_ev: float | Floats) -> Floats:
        """k (1/m) at energies of any shape; 0 below the onset."""
        above = np.maximum(np.asarray(energy_ev, dtype=np.float64) - self.onset_ev, 0.0)
        return np.asarray(np.sqrt(2.0 * self.mass * constants.m_e * constants.e * above) / constants.hbar)

    def energy(self, wave_vector: float | Floats) -> Floats:
        """E (eV) at wave vectors (1/m) of any shape."""
        k = np.asarray(wave_vector, dtype=np.float64)
        kinetic = (constants.hbar * k) ** 2 / (2.0 * self.mass * constants.m_e)
        return np.asarray(self.onset_ev + kinetic / constants.e)

    def complex_wave_vector(self, energy_ev: Floats) -> Complexes:
        """k (1/m) of E + i width / 2: its imaginary part is the waves' decay."""
        above = np.asarray(energy_ev, dtype=np.float64) - self.onset_ev + 0.5j * self.width_ev
        return np.asarray(np.sqrt(2.0 * self.mass * constants.m_e * constants.e * above) / constants.hbar)

    def density(self, energy_ev: float | Floats) -> Floats:
        """Density of states of the clean surface, 0 far below the onset and 1 far above, any shape."""
        above = np.asarray(energy_ev, dtype=np.float64) - self.onset_ev
        if self.width_ev <= 0.0:
            return np.heaviside(above, 0.5)
        return np.asarray(0.5 + np.arctan(2.0 * above / self.width_ev) / np.pi)


AU111 = SurfaceState()


@dataclass(frozen=True)
class Impurity:
    """A point scatterer and its core.

    ``phase_rad``: the phase shift delta of the s wave; ``absorption``: 1 - alpha, what is lost to the bulk.
    Core: ``core_m`` radius within which the universal wave has faded, and a bound state of density
    ``bound_height / (1 + (2 (E - bound_ev) / bound_width_ev)^2)`` that falls as exp(-(r / core_m)^2).
    """

    x_m: float = 0.0
    y_m: float = 0.0
    phase_rad: float = -0.5 * np.pi
    absorption: float = 0.0
    core_m: float = 0.4e-9
    bound_ev: float = -0.55
    bound_width_ev: float = 0.08
    bound_height: float = 0.8

    @property
    def scattering(self) -> complex:
        """t = (alpha e^{2 i delta} - 1) / 2."""
        return complex(0.5 * ((1.0 - self.absorption) * np.exp(2j * self.phase_rad) - 1.0))

    def bound(self, energy_ev: float | Floats) -> Floats:
        """The bound state's density at its centre, any shape of energies."""
        away = 2.0 * (np.asarray(energy_ev, dtype=np.float64) - self.bound_ev) / self.bound_width_ev
        return np.asarray(self.bound_height / (1.0 + away**2))

    def core(self, distance_m: Floats) -> Floats:
        """Share of the core at distances of any shape: exp(-(r / core)^2)."""
        return np.asarray(np.exp(-((distance_m / self.core_m) ** 2)))


def far_wave(
    state: SurfaceState, impurity: Impurity, distance_m: Floats, energy_ev: float | Floats
) -> Floats:
    """The universal far part of an impurity's wave, without lifetime, relative to the clean density.

    (alpha cos(2 k r + 2 delta - pi / 2) - cos(2 k r - pi / 2)) / (pi k r); shapes broadcast; energies above
    the onset.
    """
    kr = state.wave_vector(energy_ev) * distance_m
    kept = (1.0 - impurity.absorption) * np.cos(2.0 * kr + 2.0 * impurity.phase_rad - 0.5 * np.pi)
    return np.asarray((kept - np.cos(2.0 * kr - 0.5 * np.pi)) / (np.pi * kr))


def friedel_density(
    distance_m: Floats, fermi_wave_vector: float, amplitude: float, phase_rad: float, cutoff_m: float
) -> Floats:
    """Density of all electrons about an impurity: A cos(2 kF r + alpha) / (r + cutoff)^2, any shape.

    Wang et al., eq. 3; ``amplitude`` in m^2.
    """
    wave = np.cos(2.0 * fermi_wave_vector * distance_m + phase_rad)
    return np.asarray(amplitude * wave / (distance_m + cutoff_m) ** 2)


def step_edge(
    state: SurfaceState, distance_m: Floats, energy_ev: float | Floats, reflection: float = 1.0
) -> Floats:
    """Density at distances from a straight step: rho(E) (1 - Re[r J0(2 k x)]); shapes broadcast.

    With a hard wall (reflection 1) it vanishes at the step.  The lifetime damps the wave as exp(-2 Im k x).
    """
    k = state.complex_wave_vector(np.asarray(energy_ev, dtype=np.float64))
    wave = jv(0, 2.0 * k.real * distance_m) * np.exp(-2.0 * k.imag * distance_m)
    return np.asarray(state.density(energy_ev) * (1.0 - reflection * wave))


class ScatteringSurface:
    """A surface state with impurities, and the bulk's density under it.

    Waves scattered by one impurity are scattered again by all the others: the sum over all paths is the
    solution of one linear system per energy (Heller et al., as above).

    Raises:
        UsageError: two impurities at one place.
    """

    def __init__(
        self, state: SurfaceState, impurities: tuple[Impurity, ...], bulk: float = 0.6, surface: float = 1.0
    ) -> None:
        self.state = state
        self.impurities = impurities
        self.bulk = bulk
        self.surface = surface
        self._places = np.array([[i.x_m, i.y_m] for i in impurities]).reshape(-1, 2)
        apart = self._places[:, None] - self._places
        self._apart = np.hypot(apart[..., 0], apart[..., 1])
        others = self._apart[~np.eye(len(impurities), dtype=np.bool_)]
        if others.size and others.min() < 1e-12:
            raise UsageError("two impurities are at the same place.", "Keep them a lattice constant apart.")

    def modulation(self, x_m: Floats, y_m: Floats, energies_ev: Floats) -> Floats:
        """The scattered waves Re[h M h] over the clean density, without the cores: (energies, *places).

        h_i = H0(k |r - r_i|) and M = (1 - t H)^-1 t with H_ij = H0(k r_ij) between different impurities.  Not
        less than -1 wherever it is exact, that is without lifetime.
        """
        distances = self._distances(x_m, y_m)
        out = np.zeros((len(energies_ev), *np.shape(x_m)))
        scattering = np.array([i.scattering for i in self.impurities])
        live = np.nonzero(np.abs(scattering) > 0.0)[0]
        if not live.size:
            return out
        apart = self._apart[np.ix_(live, live)] + np.eye(len(live))
        for n, k in enumerate(self.state.complex_wave_vector(energies_ev)):
            if abs(k) == 0.0:
                continue
            between = hankel1(0, k * apart)
            np.fill_diagonal(between, 0.0)
            single = np.diag(scattering[live])
            paths = np.linalg.solve(np.eye(len(live)) - single @ between, single)
            kr = np.maximum(distances[live], _LEAST_KR / abs(k)) * k
            waves = hankel1(0, kr) * self._fading(distances, live)
            out[n] = np.einsum("i...,ij,j...->...", waves, paths, waves).real
        return out

    def density(self, x_m: Floats, y_m: Floats, energies_ev: Floats) -> Floats:
        """The local density of states at places (any one shape) and energies (n,): (n, *places), at least 0.

        Clean surface state times (1 + modulation), bulk, and the impurities' bound states.
        """
        clean = self.state.density(energies_ev).reshape((-1,) + (1,) * np.ndim(x_m))
        total = self.bulk + self.surface * clean * np.maximum(
            1.0 + self.modulation(x_m, y_m, energies_ev), 0.0
        )
        for impurity, distance in zip(self.impurities, self._distances(x_m, y_m), strict=True):
            total += np.multiply.outer(impurity.bound(energies_ev), impurity.core(distance))
        return np.asarray(total)

    def _distances(self, x_m: Floats, y_m: Floats) -> Floats:
        return np.array([np.hypot(x_m - x, y_m - y) for x, y in self._places]).reshape((-1, *np.shape(x_m)))

    def _fading(self, distances: Floats, chosen: npt.NDArray[np.intp]) -> Floats:
        """Square root of what is left of each impurity's own wave: the modulation holds two factors."""
        return np.array([np.sqrt(1.0 - self.impurities[i].core(distances[i])) for i in chosen])
