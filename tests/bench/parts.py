"""The benchmarks of single parts as lines of the common table: messages, journal, deciding, drift."""

from __future__ import annotations

from typing import Any

from tests.bench import bench_deciding, bench_drift, bench_journal, bench_messages
from tests.bench.figures import Figure, Findings


def messages() -> Findings:
    """Round trips beside bare zmq."""
    raw: dict[str, Any] = {
        "frame_bytes": len(bench_messages.encode(bench_messages.QUESTION, "12345")),
        "CommandClient": bench_messages.time_command_client(3000),
        "AsyncCommandClient": bench_messages.time_async_client(3000),
        "bare zmq + msgpack": bench_messages.time_bare(3000),
    }
    bare = raw["bare zmq + msgpack"]
    beside = f"bare zmq + msgpack: {bare['p50_us']:.0f} / {bare['p99_us']:.0f} us"
    figures = []
    for name in ("CommandClient", "AsyncCommandClient"):
        row = raw[name]
        title = f"round trip of {raw['frame_bytes']} bytes, two processes, {name}"
        figures.append(Figure("messages", f"{title}, p50", row["p50_us"], "us", beside))
        figures.append(
            Figure("messages", f"{title}, p99", row["p99_us"], "us", "quoted: Ray actor call 800 / 2800 us")
        )
    return Findings(figures, raw)


def slow_reader() -> Findings:
    """20,000 chunks of 8 KiB to a reader that takes 100 us for each."""
    ours = bench_messages.slow_reader(20_000)
    theirs = bench_messages.slow_subscriber(20_000)
    grown = ours["reader_rss_gain_mib"] + ours["sender_rss_gain_mib"]
    whole = ours["all_chunks_mib"]
    figures = [
        Figure(
            "slow reader",
            "lost of 20,000 messages of 8 KiB, reader at 100 us each",
            ours["lost"],
            "",
            f"PUB/SUB: {theirs['lost']:.0f} lost without a word",
            "none lost",
            ours["lost"] == 0 and ours["out_of_order"] == 0,
        ),
        Figure(
            "slow reader",
            "memory gained by both processes",
            grown,
            "MiB",
            f"window {ours['window_mib']:.3g} MiB, all messages {whole:.0f} MiB",
            "bounded by the window (allowed: 8 MiB with all the rest of a process)",
            grown < 8.0,
        ),
        Figure("slow reader", "time per message", ours["us_per_chunk"], "us", "of which the reader 100 us"),
    ]
    return Findings(figures, {"credited": ours, "pub_sub": theirs})


def journal() -> Findings:
    """Commits per second, each synced."""
    raw = bench_journal.run()
    direct = f"SQLite without process and socket: {raw['direct 16 kB, commits/s']:.0f}"
    figures = [
        Figure(
            "journal",
            "commits/s of 16 kB, one client, one by one",
            raw["client 16 kB, commits/s"],
            "",
            direct,
        ),
        Figure("journal", "commit of 16 kB, p99", raw["client 16 kB, p99 ms"], "ms"),
        Figure(
            "journal",
            "commits/s of 16 kB, 16 under way",
            raw["client 16 kB, 16 under way, commits/s"],
            "",
            "quoted: SQLite WAL, synchronous=FULL: 2,400 to 4,900",
        ),
    ]
    return Findings(figures, dict(raw))


def deciding() -> Findings:
    """Seconds per decision, and points until the map is right."""
    raw = bench_deciding.run(quick=True)
    figures = []
    peers = {
        60: "quoted: gpax viDKL 9.0 s, GPyTorch exact DKL 0.64 s",
        250: "quoted: gpax viDKL 9.8 s, gpCAM 8.1 s",
    }
    for name, row in raw["decision"].items():
        beside = peers[60 if "n = 60" in name else 250]
        figures.append(Figure("deciding", f"one decision, {name}", row["median_s"], "s", beside))
    plain = raw["correlation"]["space-filling, matern_xy"]["90"]["mean"]
    steered = raw["correlation"]["pca_xy, covariance"]["90"]["mean"]
    title = "recorded grid: r with the whole map after 90 of 900 spectra"
    figures.append(Figure("deciding", title, steered, "", f"space-filling, plain GP: {plain:.3f}"))
    worst = min(raw["stopped"], key=lambda run: run["r"])
    figures.append(
        Figure(
            "deciding",
            f"recorded grid, ended by its own rule after {worst['spectra']} spectra: least r",
            worst["r"],
            "",
            f"space-filling with as many: {worst['control_r']:.3f}",
            "r >= 0.88 with at most 150",
            worst["r"] >= 0.88 and worst["spectra"] <= 150,
        )
    )
    return Findings(figures, raw)


def drift() -> Findings:
    """Errors of the registration in pixels, for each kind of image."""
    raw = bench_drift.run(quick=True)
    ours = raw["registration"]["Tunnelpilot"]
    figures = []
    for case, row in ours.items():
        peers = {
            name: cases[case]["worst_px"]
            for name, cases in raw["registration"].items()
            if name != "Tunnelpilot"
        }
        beside = ", ".join(f"{name} {worst:.2g}" for name, worst in peers.items())
        figures.append(Figure("drift", f"worst error, {case}", row["worst_px"], "px", beside))
    refused = raw["unrelated"]["refused_share"]
    figures.append(
        Figure(
            "drift",
            "unrelated frames answered 'cannot tell'",
            100 * refused,
            "%",
            "gpSTS answers without a warning",
            "100 %",
            refused == 1.0,
        )
    )
    return Findings(figures, raw)
