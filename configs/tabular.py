r"""The rows of a .csv, .parquet, .xlsx, .npy or .npz file of numbers, dates and levels.

resflow-train --config=tabular --workdir=runs/table --config.data.path=FILE.csv
resflow-train --config=tabular --workdir=runs/given --config.data.path=FILE.csv \
  --config.data.condition_columns=age
resflow-train --config=tabular --workdir=runs/other --config.data.path=FILE.csv \
  --config.data.read_options.sep=';' --config.data.read_options.decimal=,
resflow-train --config=tabular --workdir=runs/levels --config.data.path=FILE.csv \
  --config.data.kinds='size: S < M < L; code: category; temp: 0.1' --config.data.missing=drop

Columns are standardized inside the flow. The score, in nats, is a probability in columns of whole numbers, days and
levels, and a density in the units of the data in other columns. A frequent number, such as 0 in rainfall, has a
probability of its own. A tenth of the rows is for validation and a tenth for testing, unless path_validation and
path_test are set.

The weights with the best validation score are kept. Training ends after ten scores (500 steps) without a better
one, before the model overfits a few hundred rows. A score on 100,000 rows takes longer than 50 steps: set
--config.train.eval_every=1000.

The second command trains the density of the other columns given the column age, which is standardized, too. The
third reads a file with semicolons between cells and decimal commas, by arguments of pandas.read_csv. The fourth
orders the levels of one column, and declares another as categories and a third as multiples of 0.1. It drops rows
with missing values.
"""

from tf_resflow.training import default_config


def get_config():
    """Returns the config: blocks of fully connected layers of width 128."""
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
