"""Runs resflow-convert from a checkout. See tf_resflow/cli/convert.py."""

from tf_resflow.cli import convert

if __name__ == "__main__":
    convert.run()
