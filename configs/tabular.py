r"""The rows of a .csv, .parquet, .xlsx, .npy or .npz file of numbers, dates and levels.

resflow-train --config=tabular --workdir=runs/table --config.data.path=FILE.csv
resflow-train --config=tabular --workdir=runs/given --config.data.path=FILE.csv \
  --config.data.condition_columns=age
resflow-train --config=tabular --workdir=runs/other --config.data.path=FILE.csv \
  --config.data.read_options.sep=';' --config.data.read_options.decimal=,
resflow-train --config=tabular --workdir=runs/levels --config.data.path=FILE.csv \
  --config.data.kinds='size: S < M < L; code: category; temp: 0.1' --config.data.missing=drop

Columns are standardized inside the flow. The score is in nats of the data as they are: a probability
in columns of whole numbers, days and levels, and a density in the others. A tenth of the rows is for
validation and a tenth for testing, unless path_validation and path_test are set.

The weights with the best validation score count, and training ends after ten scores without a better one, which are
500 steps: a few hundred rows would be learned by heart in the others. With a hundred thousand rows a score takes
longer than 50 steps: --config.train.eval_every=1000.

The second command trains the density of the other columns given the column age, which is standardized, too. The
third reads a file with semicolons between the cells, and decimal commas, by arguments of pandas.read_csv. The
fourth says what types do not: the order of the levels of a column of text, that the numbers of another column are
categories, and that those of a third are multiples of 0.1. It leaves out rows that miss values.
"""

from tf_resflow.training import default_config


def get_config():
    """Returns the configuration: blocks of fully connected layers of width 128."""
    config = default_config()
    config.data.name = "tabular"
    config.model.kind = "vector"
    config.model.num_blocks = (10,)
    config.model.activation = "cpila"
    config.model.hidden = (128, 128)
    config.train.steps = 5000
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.eval_every = 50
    config.train.keep_best = True
    config.train.patience = 10
    config.train.checkpoint_every = 1000
    config.eval.batch_size = 1000
    return config
