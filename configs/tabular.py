r"""The rows of a .csv, .parquet, .xlsx, .npy or .npz file of numbers, dates and levels.

resflow-train --config=tabular --workdir=runs/table --config.data.path=FILE.csv
resflow-train --config=tabular --workdir=runs/given --config.data.path=FILE.csv \
  --config.data.condition_columns=age
resflow-train --config=tabular --workdir=runs/other --config.data.path=FILE.csv \
  --config.data.read_options.sep=';' --config.data.read_options.decimal=,
resflow-train --config=tabular --workdir=runs/levels --config.data.path=FILE.csv \
  --config.data.kinds='size: S < M < L; code: category; temp: 0.1' --config.density.missing=condition

The density is `tf_resflow.tables.FlowDensity`, and config.density has its arguments. The score, in nats, is a
probability in columns of whole numbers, days and levels, and a density in the units of the data in other columns. A
frequent number, such as 0 in rainfall, has a probability of its own. A tenth of the rows is for testing, unless
path_test is set or test_fraction is 0. Columns that identify the rows, such as names, are left out.

The second command fits the density of the other columns given the column age. The third reads a file with
semicolons between cells and decimal commas, by arguments of pandas.read_csv. The fourth orders the levels of one
column, and declares another as categories and a third as multiples of 0.1. It scores rows with missing values by
their other values.
"""

from tf_resflow.tables.runs.config import default_config


def get_config():
    """Returns the config with the default arguments of `FlowDensity`."""
    return default_config()
