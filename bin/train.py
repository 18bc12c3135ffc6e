"""Runs resflow-train from a checkout. See tf_resflow/cli/train.py."""

from tf_resflow.cli import train

if __name__ == "__main__":
    train.run()
