"""HAF-CLAP: hierarchical attention-fusion CLAP for heterogeneous audio classification.

Modules, in the order in which data flows: taxonomy, datasets, captions, audio, clap, passt, model, losses, controls,
training, inference, metrics, statistics, plots, widgets.
"""

__version__ = "0.1.0"
