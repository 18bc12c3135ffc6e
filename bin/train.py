"""The command resflow-train in a checkout: see tf_resflow/cli/train.py."""

from tf_resflow.cli import train

if __name__ == "__main__":
    train.run()
