"""The estimator of the log-determinants under which a trained model is evaluated or served."""

from tf_resflow import bijectors, evaluation, flows, logdet

__all__ = ["default_log_det", "evaluation_log_det"]


def default_log_det(model):
    """The name of the estimator that a run evaluates with: "exact" up to 16 coordinates, else "roulette".

    Args:
      model: a `FlowModel` of `tf_resflow.load`.
    """
    blocks = bijectors.residual_blocks(model.evaluation_distribution)
    return "exact" if all(isinstance(block.log_det, logdet.Exact) for block in blocks) else "roulette"


def evaluation_log_det(model, name, num_probes=1, common=False):
    """The estimator of a name.

    Args:
      model: a `FlowModel` of `tf_resflow.load`.
      name: "roulette", "adaptive" or "exact", see `Evaluation`.
      num_probes: of "roulette" and "adaptive".
      common: whether the examples of a batch share their probes and their number of terms.

    Raises:
      ValueError: when the name is unknown, or "adaptive" cannot be certified.
    """
    config = model.config.model
    if name == "exact":
        return logdet.Exact()
    if name == "roulette":
        return flows.build_estimator(
            config.estimator.eval, per_example=not common, num_probes=num_probes, common_probes=common
        )
    if name != "adaptive":
        raise ValueError(f"log_det is 'roulette', 'adaptive' or 'exact'; got {name!r}.")
    bounds = evaluation.lipschitz_bounds(model.flow)
    if not bounds:
        return logdet.Exact()  # of couplings, which are exact by themselves
    worst = max(bounds, key=bounds.get)
    if not bounds[worst] < 1:
        reason = evaluation.uncertified_blocks(model.flow).get(worst)
        found = f"not certified ({reason})" if reason else f"{bounds[worst]:.4f}"
        raise ValueError(
            f"log_det='adaptive' needs certified Lipschitz constants below 1, but that of {worst} is {found}. "
            "Evaluate with 'roulette' or 'exact', or train with a lower config.model.coefficient."
        )
    return logdet.AdaptiveSeries(lipschitz_constant=bounds[worst], num_probes=num_probes, common_probes=common)
