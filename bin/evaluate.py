"""The command resflow-evaluate in a checkout: see tf_resflow/cli/evaluate.py."""

from tf_resflow.cli import evaluate

if __name__ == "__main__":
    evaluate.run()
