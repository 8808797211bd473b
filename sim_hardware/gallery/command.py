"""``stmctl simulate gallery``: pictures of every sample."""

from __future__ import annotations

from pathlib import Path

import click

from protocols.errors import ConfigError


@click.command("gallery", context_settings={"show_default": True})
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder.")
@click.option("--sample", "samples", multiple=True, metavar="NAME", help="Only these.  [default: all]")
@click.option("--pixels", type=click.IntRange(32, 512), default=192, help="Along an edge of a topograph.")
def gallery_command(out: Path, samples: tuple[str, ...], pixels: int) -> None:
    """Take pictures of the simulated samples, as PNG.

    For each sample a page with topographs, dI/dV maps and spectra on and off its defects, and a page with one
    frame under each distortion; the recorded sample is shown as it was recorded.  Takes about ten seconds a
    page.
    """
    import matplotlib

    matplotlib.use("Agg")
    from rich.progress import track

    from sim_hardware.gallery.pages import distortions_page, recorded_page, sample_page
    from sim_hardware.gallery.samples import NAMES, RECORDED

    unknown = sorted(set(samples) - set(NAMES))
    if unknown:
        raise ConfigError(
            f"there are no pictures of {', '.join(unknown)}.", f"There are some of {', '.join(NAMES)}."
        )
    folder = out.expanduser().absolute()
    made: list[Path] = []
    for name in track([name for name in NAMES if not samples or name in samples], "samples"):
        if name == RECORDED:
            made.append(recorded_page(folder))
        else:
            made += [sample_page(name, folder, pixels), distortions_page(name, folder, 2 * pixels // 3)]
    for path in made:
        click.echo(str(path))
