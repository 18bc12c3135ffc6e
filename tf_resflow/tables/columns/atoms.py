"""Columns of numbers with atoms: frequent values, such as the zeros of rainfall."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow._internal.messages import shortened
from tf_resflow.tables.columns.cells import Cells, RowCells
from tf_resflow.tables.columns.column import Column
from tf_resflow.tables.columns.grid import GridColumn
from tf_resflow.tables.columns.number import NumberColumn
from tf_resflow.tables.columns.values import (
    are_whole,
    numbers_of_fit,
    numpy_dtype,
    read_numbers,
    smallest,
    to_floats,
    to_text,
)

_LEAST_SHARE = 0.05  # of the rows with an atom
_LEAST_RATIO = 5  # of the frequencies of an atom and of the most frequent other value
_MOST_ATOMS = 3  # of a column
_LEAST_OTHERS = 5  # minimum number of other values


class Atom(NamedTuple):
    """A frequent value, the width of its cell, and -1 or 1 if it is the smallest or largest value, otherwise 0."""

    value: Any
    width: float
    end: int


class AtomCells:
    """Cells of columns with atoms; see `Points`. The other values of these columns are points or on a grid.

    An atom has a cell, as wide as the standard deviation of the other values. All larger values are moved up by
    this width minus the step of the grid, if any, so that the cell is free of other values. An atom at an end of
    its column includes everything beyond it.

    The parameters of atoms are arrays `[columns, atoms]`, NaN beyond the atoms of a column.
    """

    def __init__(self, columns: Sequence["AtomColumn"]):
        self._others = RowCells([column.others for column in columns])
        most = max(len(column.atoms) for column in columns)
        steps = np.array([[column.cell_width] for column in columns], np.float64)
        numbers, widths, ends = np.full([3, len(columns), most], np.nan)
        for i, column in enumerate(columns):
            num = len(column.atoms)
            numbers[i, :num] = column.atom_numbers()
            widths[i, :num] = [atom.width for atom in column.atoms]
            ends[i, :num] = [atom.end for atom in column.atoms]
        self._numbers = numbers
        self._ends = ends
        self._growth = widths - steps
        self._near = steps / 4  # 0 without a grid: there, a number is an atom if it is equal to it
        growth_below = np.cumsum(self._growth, axis=1) - self._growth  # atoms are in increasing order
        lower = numbers - steps / 2 + growth_below
        self._lower = np.where(ends < 0, -np.inf, lower)
        self._upper = np.where(ends > 0, np.inf, lower + widths)

    def cells(self, numbers: tf.Tensor) -> Cells:
        """Returns the cells of atoms and of the other values."""
        cells = self._others.cells(numbers)
        distances = numbers[..., tf.newaxis] - self._numbers
        is_atom = tf.abs(distances) <= self._near
        widths = cells.widths + self._total_growth(is_atom)
        is_end = is_atom[..., tf.newaxis] & (self._ends[..., np.newaxis] == [-1, 1])
        return cells._replace(
            lower=cells.lower + self._total_growth(distances > self._near),
            widths=widths,
            ends=cells.ends | tf.reduce_any(is_end, axis=2),
            log_units=-tf.math.log(tf.where(widths > 0, widths, 1.0)),
        )

    def to_numbers(self, places: tf.Tensor) -> tf.Tensor:
        """Returns the numbers whose cells contain places."""
        is_above = places[..., tf.newaxis] >= self._upper
        is_atom = (places[..., tf.newaxis] >= self._lower) & ~is_above
        others = self._others.to_numbers(places - self._total_growth(is_above))
        atoms = tf.reduce_sum(tf.where(is_atom, self._numbers, 0.0), axis=-1)
        return tf.where(tf.reduce_any(is_atom, axis=-1), atoms, others)

    def are_impossible(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns which numbers are beyond an atom at an end of their column, or between the values of a grid."""
        is_beyond = (numbers[..., tf.newaxis] - self._numbers) * self._ends > 0
        return self._others.are_impossible(numbers) | tf.reduce_any(is_beyond, axis=-1)

    def _total_growth(self, is_counted):
        """Returns the sum of the growths of some atoms of each column."""
        return tf.reduce_sum(tf.where(is_counted, self._growth, 0.0), axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomColumn(Column):
    """Numbers with atoms. A number is encoded as in a column without atoms.

    Attributes:
      others: The same column without atoms, a `NumberColumn` or a `GridColumn`.
      atoms: The atoms, in increasing order.
    """

    json_kind: ClassVar[str] = "number"
    cells_class: ClassVar[Any] = AtomCells
    has_cells: ClassVar[bool] = True

    others: Any
    atoms: tuple[Atom, ...]

    @classmethod
    def fit(cls, series, kind, base):
        x, _ = numbers_of_fit(series, base)
        if are_whole(x):
            others = GridColumn.fit(series, "whole", base)
        else:
            others = NumberColumn.fit(series, "number", base)
        if not kind:
            return others
        return cls._around(others, _fit_atoms(base["name"], x, kind, others.cell_width))

    @classmethod
    def _around(cls, others, atoms):
        base = {field.name: getattr(others, field.name) for field in dataclasses.fields(Column)}
        return cls(**base, others=others, atoms=atoms)

    @property
    def kind(self):
        return {atom.value for atom in self.atoms}

    @property
    def cell_width(self):
        return self.others.cell_width

    @property
    def first_number(self):
        return self.others.first_number

    @property
    def num_cells(self):
        return self.others.num_cells

    def atom_numbers(self) -> list[float]:
        """Returns the numbers of the atoms."""
        return [float(atom.value - self.offset) for atom in self.atoms]

    def to_numbers(self, series, date_format=None):
        numbers, faults = self.others.to_numbers(series)
        for atom, number in zip(self.atoms, self.atom_numbers(), strict=True):
            is_beyond = (faults == "") & (atom.end * (numbers - number) > 0)
            faults = np.where(is_beyond, "beyond an atom at the end of the column", faults)
        return numbers, faults

    def to_values(self, numbers):
        values = self.others.to_values(numbers)
        for atom, number in zip(self.atoms, self.atom_numbers(), strict=True):
            values[numbers == number] = atom.value  # without rounding
        return values

    def is_singleton(self, series):
        x = to_floats(read_numbers(series)[0])
        is_alone = self.others.is_singleton(series)
        for atom in self.atoms:
            for is_beside in (x < atom.value, x > atom.value):
                is_alone |= is_beside & (is_beside.sum() == 1)
        return is_alone

    def description(self):
        text = f"a probability at {shortened(map(to_text, self.kind))}, a density elsewhere"
        return self.others.description() or text

    def to_json(self):
        return self.others.to_json() | {"atoms": [list(atom) for atom in self.atoms]}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]):
        others = (GridColumn if "step" in description else NumberColumn).from_json(description)
        return cls._around(others, tuple(Atom(*atom) for atom in description["atoms"]))

    def with_all_decimals(self):
        return dataclasses.replace(self, others=self.others.with_all_decimals())

    def number_groups(self, numbers):
        groups = {str(self.name): numbers[~np.isin(numbers, self.atom_numbers())]}
        for atom, number in zip(self.atoms, self.atom_numbers(), strict=True):
            groups[f"{self.name} = {to_text(atom.value)}"] = numbers[numbers == number]
        return groups


def frequent_values(x: Any) -> set[Any]:
    """Returns the set of numbers that are far more frequent than all other numbers, such as 0 in rainfall."""
    counts = x.value_counts()
    for num in range(min(_MOST_ATOMS, len(counts) - _LEAST_OTHERS), 0, -1):
        count_of_rarest = counts.iloc[num - 1]
        count_of_next = counts.iloc[num]
        if count_of_rarest >= max(_LEAST_SHARE * len(x), _LEAST_RATIO * count_of_next):
            return set(counts.index[:num].tolist())
    return set()


def _fit_atoms(name, x, kind, step):
    """Returns the atoms of numbers, given the set of their values."""
    origin = smallest(x)
    differences = to_floats(x, origin)
    dtype = numpy_dtype(x.dtype)
    values = sorted(float(dtype.type(value)) if dtype.kind == "f" else int(value) for value in kind)
    differences_of_atoms = np.array([float(value - origin) for value in values])
    absent = np.flatnonzero(~np.isin(differences_of_atoms, differences))
    if len(absent):
        raise ValueError(
            f"Column {name!r}: the atom {values[absent[0]]:.9g} is not among the values. Give atoms that occur."
        )
    others = differences[~np.isin(differences, differences_of_atoms)]
    if not len(others):
        raise ValueError(f"Column {name!r}: all values are atoms. Choose the kind 'category'.")
    width = float(max(others.std() or 1.0, step))
    is_first = differences_of_atoms <= differences.min()
    is_last = differences_of_atoms >= differences.max()
    ends = np.where(is_first, -1, np.where(is_last, 1, 0)).tolist()
    return tuple(Atom(value, width, end) for value, end in zip(values, ends, strict=True))
