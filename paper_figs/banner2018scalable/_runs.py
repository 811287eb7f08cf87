"""How the variants of `python scripts/sweep.py banner2018scalable` look in these figures."""

from paper_figs import style

LOOK = {  # colour-blind-safe, as in `style.LINE`
    "float32": style.LINE["float32"],
    "full": style.LINE["full"],
    "no bifurcation": {"color": "#D55E00", "linestyle": "--", "label": "no bifurcation"},
    "8-bit forward": {"color": "#009E73", "linestyle": "-.", "label": "8-bit forward only"},
    "batch norm": {"color": "#E69F00", "linestyle": ":", "label": "batch norm for range"},
    "symmetric": {"color": "#CC79A7", "linestyle": "--", "label": "symmetric ranges"},
    "range norm": {"color": "#0072B2", "linestyle": "-", "label": "range norm"},
    "range norm, code": {"color": "#56B4E9", "linestyle": "--", "label": "range norm, code"},
}
