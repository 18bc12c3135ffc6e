import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, to look at what they hold."""
    saved, savefig = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved
