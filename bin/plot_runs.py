"""The command resflow-plot-runs in a checkout: see tf_resflow/cli/plot_runs.py."""

from tf_resflow.cli import plot_runs

if __name__ == "__main__":
    plot_runs.run()
