"""Runs resflow-export from a checkout. See tf_resflow/cli/export.py."""

from tf_resflow.cli import export

if __name__ == "__main__":
    export.run()
