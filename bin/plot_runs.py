"""Runs resflow-plot-runs from a checkout. See tf_resflow/cli/plot_runs.py."""

from tf_resflow.cli import plot_runs

if __name__ == "__main__":
    plot_runs.run()
