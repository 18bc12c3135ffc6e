"""The command resflow-export in a checkout: see tf_resflow/cli/export.py."""

from tf_resflow.cli import export

if __name__ == "__main__":
    export.run()
