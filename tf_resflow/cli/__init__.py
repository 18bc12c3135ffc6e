"""Commands: resflow-train, -evaluate, -sample, -score, -export and -convert."""
