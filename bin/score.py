"""The command resflow-score in a checkout: see tf_resflow/cli/score.py."""

from tf_resflow.cli import score

if __name__ == "__main__":
    score.run()
