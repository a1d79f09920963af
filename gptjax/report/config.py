"""The settings of the report."""

from dataclasses import dataclass

from gptjax.fields import setting

FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}
"""The formats of figures, each with the metadata that Matplotlib is told to leave out."""


@dataclass(frozen=True)
class ReportConfig:
    """How figures and the page are written; what they show comes from the records and laws."""

    title: str = setting("", "Title of the page; empty: made from the experiment's name.")
    formats: tuple[str, ...] = setting(
        ("png", "pdf"),
        "Files written beside the page for each figure (the page itself carries them as SVG).",
        choices=FORMATS,
    )
    dpi: int = setting(200, "Resolution of PNG files, dots per inch.", minimum=50, maximum=1200)
    curve_points: int = setting(
        160, "Most points drawn of one training curve; longer ones are thinned.", minimum=8
    )
    open: bool = setting(False, "Open the page in a browser when it is written.")
