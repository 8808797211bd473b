"""What is in a data set, asked of its plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import ConfigError
from sim_hardware.dataset.arrangements import ATOMISTIC, EXTENT_M
from sim_hardware.dataset.plan import CROPS, SPLITS, Plan, Spec, plan
from sim_hardware.dataset.ranges import RANGES
from sim_hardware.dataset.scenes import area_of, defects_of, tip_recipe
from sim_hardware.dataset.shards import shards_of

COUNT = 100_000


@pytest.fixture(scope="module")
def whole() -> Plan:
    """A data set of 100,000 images."""
    return plan(Spec("ws2", COUNT, seed=3))


def test_100000_images_have_5000_arrangements_and_500_tips(whole: Plan) -> None:
    """Each arrangement and tip counted is in an image; no arrangement has more than 16 crops."""
    arrangements, crops = np.unique(whole.columns["arrangement"], return_counts=True)
    tips = np.unique(whole.columns["tip"])
    assert len(arrangements) == sum(whole.arrangements) >= 5000
    assert len(tips) == sum(whole.tips) >= 500
    assert crops.max() <= CROPS


def test_arrangements_and_tips_of_one_part_are_in_no_other(whole: Plan) -> None:
    """Train, validation and test share neither arrangement nor tip."""
    split = whole.columns["split"]
    for name in ("arrangement", "tip"):
        parts = [set(whole.columns[name][split == k].tolist()) for k in range(len(SPLITS))]
        assert all(parts)
        assert parts[0].isdisjoint(parts[1] | parts[2])
        assert parts[1].isdisjoint(parts[2])


def test_no_crop_is_repeated(whole: Plan) -> None:
    """The centres of two crops of one arrangement are at least 0.4 nm apart, and every crop is turned its
    own way."""
    arrangement = whole.columns["arrangement"]
    centres = np.stack([whole.columns["centre_x_m"], whole.columns["centre_y_m"]], axis=1).astype(np.float64)
    assert len(np.unique(whole.columns["angle_rad"])) == COUNT
    order = np.argsort(arrangement, kind="stable")
    starts = np.searchsorted(arrangement[order], np.arange(sum(whole.arrangements)))
    least = np.inf
    for own in np.split(order, starts[1:]):
        apart = np.hypot(*(centres[own][:, None] - centres[own][None]).transpose(2, 0, 1))
        np.fill_diagonal(apart, np.inf)
        least = min(least, float(apart.min()))
    assert least > 0.4e-9


def test_arrangements_differ() -> None:
    """Of 400 arrangements no two have the same defects, nor have two of au111 the same impurities."""
    spec = Spec("wse2", COUNT, seed=3)
    seen = {(defects_of(spec, n).cells.tobytes(), defects_of(spec, n).classes.tobytes()) for n in range(400)}
    assert len(seen) == 400
    gold = Spec("au111", COUNT, seed=3)
    areas = [area_of(gold, n) for n in range(45)]
    places = np.concatenate([np.stack([a.x_m + a.centre_m[0], a.y_m], axis=1) for a in areas])
    assert len(np.unique(places, axis=0)) == len(places) > 100


def test_tips_differ() -> None:
    """500 tips are 500 different recipes."""
    spec = Spec("ws2", COUNT, seed=3)
    assert len({tip_recipe(spec, n) for n in range(500)}) == 500


def test_the_plan_follows_from_the_seed() -> None:
    """The same spec gives the same plan, another seed or sample another one."""
    spec = Spec("fese", 500, seed=11)
    assert plan(spec).fingerprint == plan(spec).fingerprint
    assert plan(spec).fingerprint != plan(Spec("fese", 500, seed=12)).fingerprint
    assert plan(spec).columns["angle_rad"][0] != plan(Spec("ws2", 500, seed=11)).columns["angle_rad"][0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 5), st.integers(1, 400), st.sampled_from(sorted(RANGES)))
def test_any_count_is_planned_whole(count: int, seed: int, per_shard: int, sample: str) -> None:
    """Shards have every image once and never of two parts; frames lie in their arrangement; numbers in their
    bounds."""
    spec = Spec(sample, count, seed)
    made = plan(spec)
    shards = shards_of(made, per_shard)
    assert [n for shard in shards for n in range(shard.first, shard.last)] == list(range(count))
    for shard in shards:
        assert len(set(made.columns["split"][shard.first : shard.last].tolist())) == 1
        assert shard.name.startswith(SPLITS[int(made.columns["split"][shard.first])] + "/")
        assert shard.images <= per_shard
    columns = {name: column.astype(np.float64) for name, column in made.columns.items()}
    reach = np.maximum(np.abs(columns["centre_x_m"]), np.abs(columns["centre_y_m"]))
    assert np.all(reach + columns["width_m"] / np.sqrt(2.0) < 0.5 * spec.extent_m)
    low, high = RANGES[sample].width_m
    assert np.all((columns["width_m"] >= low) & (columns["width_m"] <= high))
    biases = np.any(
        [(columns["bias_v"] >= a) & (columns["bias_v"] <= b) for a, b in RANGES[sample].biases_v], axis=0
    )
    assert np.all(biases)
    assert np.all(columns["arrangement"] < sum(made.arrangements))
    assert all(0 <= k <= n for k, n in zip(made.arrangements, (count, count, count), strict=True))


@pytest.mark.parametrize("sample", ATOMISTIC)
def test_defects_keep_apart_and_are_of_all_classes(sample: str) -> None:
    """Within the area; no two nearer than 0.6 nm, every class
    occurs."""
    spec = Spec(sample, 1000)
    found = [defects_of(spec, n) for n in range(60)]
    assert all(len(d.classes) for d in found)
    for d in found:
        apart = np.hypot(d.x_m[:, None] - d.x_m, d.y_m[:, None] - d.y_m) + np.diag(
            np.full(len(d.x_m), np.inf)
        )
        assert apart.min() >= 0.6e-9
        assert np.abs([d.x_m, d.y_m]).max() < 0.5 * EXTENT_M + 0.4e-9
    classes = np.unique(np.concatenate([d.classes for d in found]))
    assert len(classes) == (2 if sample == "fese" else 4)


@pytest.mark.parametrize(
    "wrong", [{"sample": "mos2"}, {"count": 0}, {"size": 7}, {"size": 4096}, {"seed": -1}], ids=str
)
def test_what_cannot_be_made_is_refused(wrong: dict[str, object]) -> None:
    """An unknown sample, no images, a size beyond 16 to 512 pixels, a negative seed."""
    with pytest.raises(ConfigError):
        Spec(**{"sample": "ws2", "count": 10, **wrong})  # type: ignore[arg-type]
