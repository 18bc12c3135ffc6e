"""Commands: resflow-train, -evaluate, -sample, -score, -export, -convert and -plot-runs."""
