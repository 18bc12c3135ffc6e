"""The commands: resflow-train, -evaluate, -sample, -export, -convert and -plot-runs."""
