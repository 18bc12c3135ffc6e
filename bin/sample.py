"""Runs resflow-sample from a checkout. See tf_resflow/cli/sample.py."""

from tf_resflow.cli import sample

if __name__ == "__main__":
    sample.run()
