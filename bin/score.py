"""Runs resflow-score from a checkout. See tf_resflow/cli/score.py."""

from tf_resflow.cli import score

if __name__ == "__main__":
    score.run()
