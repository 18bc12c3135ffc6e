"""Densities of tables: their files, columns and encodings."""
