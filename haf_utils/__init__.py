"""HAF-CLAP: hierarchical attention-fusion CLAP for heterogeneous audio classification. This page is the map.

The method, one idea a file, in the order in which data flows:

    taxonomy                the Broad Sound Taxonomy: 23 classes under five top levels
    profiles, config        every number of the method; every parameter of a run
    datasets, captions      from folders and metadata to a table of clips with their texts
    folds, audio, corpus    splits by uploader; samples and windows; the clips of a run with their audio
    clap, passt             the pretrained networks, from sound and text to embeddings
    model                   gated refinement, attention fusion, classifier: where a new fusion goes
    losses, regularizers    smoothed targets and their losses; mixup, noise, text dropout, EMA
    inputs, training        what a step reads; the step, the epoch, the fit
    pretraining             continued contrastive pretraining of CLAP
    inference, runs         posteriors and test-time views; the folder that a run leaves behind
    metrics, statistics     hF, hP, hR; intervals and paired tests
    posteriors, ensembles   predictions of any system; which of them to average, and how
    controls, hatr          the simple systems that say what the parts are worth
    submission              the files that are handed in to the challenge

The machinery, which only runs it:

    cli           the commands: haf predict, export, sweep, posteriors, leaderboard, compare, validate, submission
    experiment/   from a configuration to run folders: fine-tuning, sweeps, ablations, members, prediction, validation
    plots/        figures, tables and widgets of the notebooks
    io/           files, audio stores, checkpoints, progress, imports of other packages
    fast/         the same numbers, sooner; HAF_FAST=0 does without

What may be touched:

    the method                    change it and its numbers move: publish the figures again (make figures)
    experiment/, plots/, cli      freely, or deleted: the method does without them
    io/                           only with its tests
    fast/                         only with a benchmark (make bench)

tests/test_imports.py holds who may import whom, CONTRIBUTING.md has the table.
"""

__version__ = "0.2.0"
