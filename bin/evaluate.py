"""Runs resflow-evaluate from a checkout. See tf_resflow/cli/evaluate.py."""

from tf_resflow.cli import evaluate

if __name__ == "__main__":
    evaluate.run()
