"""The `eval` section of a config: its fields, their defaults and rules."""

from tf_resflow.config_fields import AT_LEAST_0, AT_LEAST_1, Field, one_of

FIELDS = {
    "split": Field("test", one_of("test", "validation", "train")),
    "batch_size": Field(100, AT_LEAST_1),
    "num_examples": Field(0, AT_LEAST_0),  # evaluate only the first num_examples; 0: all
    "num_samples": Field(64, AT_LEAST_1),  # in the grid or figure
}
