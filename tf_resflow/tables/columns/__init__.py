"""The columns of tables: one class for each kind, which maps values to numbers and back, and one for its cells."""
