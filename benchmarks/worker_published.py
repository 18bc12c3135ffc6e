"""Measures a checkout of the published PyTorch code (rtqichen/residual-flows).

compare_speed.py and time_to_score.py start it in a separate process, with a Python that has torch.
"""

import math
import sys
import time

import numpy as np
import torch
from workers import serve, train_for

sys.path.insert(0, sys.argv[1])

from resflows import layers
from resflows.layers import base, iresblock
from resflows.resflow import ResidualFlow


def _model(case):
    iresblock.geometric_sample = lambda p, num: np.full(num, case.num_extra_terms)
    shape = case.batch_size, *case.shape
    return _flow(shape, 1e-6, n_blocks=[case.num_blocks], intermediate_dim=case.width, fc_end=False)


def _flow(shape, logit_alpha, **options):
    batch_size, height, width, channels = shape
    return ResidualFlow(
        (batch_size, channels, height, width),
        factor_out=False,
        init_layer=layers.LogitTransform(logit_alpha),
        actnorm=True,
        coeff=0.98,
        vnorms="2222",
        sn_atol=1e-3,
        sn_rtol=1e-3,
        n_power_series=None,
        n_dist="geometric",
        kernels="3-1-3",
        activation_fn="swish",
        n_exact_terms=2,
        preact=True,
        neumann_grad=True,
        grad_in_forward=True,
        first_resblock=True,
        **options,
    )


def _tensor(images):
    return torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32).contiguous()


def _loss(model, x):
    """Returns the bits/dim of each image, with integers from 0 to 255."""
    z, delta = model((x + torch.rand_like(x)) / 256, 0)
    log_prob = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1) - delta.flatten()
    return 8 - log_prob / x[0].numel() / math.log(2)


def _update_norms(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (base.InducedNormConv2d, base.InducedNormLinear)):
                module.compute_weight(update=True)


def _timed(function):
    start = time.perf_counter()
    function()
    return {"seconds": time.perf_counter() - start}


def _train_step(case):
    model, x = _model(case), _tensor(case.batch())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        loss = _loss(model, x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _update_norms(model)
        return loss.item()

    return lambda: _timed(step)


def _evaluation(case):
    model, x = _model(case), _tensor(case.batch())
    _loss(model, x)  # initializes the ActNorms
    _update_norms(model)
    model.eval()

    torch.set_flush_denormal(True)
    return lambda: _timed(lambda: _loss(model, x).mean().item())


def _learning(settings):
    """Trains and validates like train_img.py, but scores the weights, not their average, and flushes denormals.

    On a GPU, if there is one; `rates` are the learning rates of the steps.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_flush_denormal(True)
    torch.manual_seed(settings["config"]["seed"])
    model_config, train, evaluation = (settings["config"][key] for key in ("model", "train", "eval"))
    splits = np.load(settings["arrays"])
    images, test = splits["train"], splits["test"][: evaluation["num_examples"] or None]
    shape, order = (train["batch_size"], *images.shape[1:]), np.random.default_rng(settings["config"]["seed"])
    start = time.process_time()
    options = {"intermediate_dim": model_config["width"], "fc_idim": model_config["fc_width"], "fc_end": True}
    model = _flow(shape, model_config["logit_alpha"], n_blocks=model_config["num_blocks"], **options)
    size, state = shape[0], {"step": 0, "seconds": 0.0, "rows": np.zeros([0], int)}

    def batch(num=size, place=device):
        if len(state["rows"]) < num:
            state["rows"] = order.permutation(len(images))
        rows, state["rows"] = state["rows"][:num], state["rows"][num:]
        x = images[rows]
        mirrored = settings["config"]["data"]["flip"] & (order.random([num, 1, 1, 1]) < 0.5)
        return _tensor(np.where(mirrored, x[:, :, ::-1], x)).to(place)

    with torch.no_grad():
        _loss(model, batch(max(size, 64), "cpu"))  # makes all tensors, and initializes the ActNorms
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, train["beta_2"]))

    def step(number):
        for group in optimizer.param_groups:
            group["lr"] = settings["rates"][number]
        loss = _loss(model, batch()).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train["global_clipnorm"])
        optimizer.step()
        optimizer.zero_grad()
        _update_norms(model)
        loss.item()  # a GPU is done then

    def score():
        _update_norms(model)
        model.eval()
        rows = range(0, len(test), evaluation["batch_size"])
        with torch.no_grad():
            losses = [_loss(model, _tensor(test[i : i + evaluation["batch_size"]]).to(device)) for i in rows]
        model.train()
        return torch.cat(losses).mean().item()

    state["seconds"] = time.process_time() - start

    def run():
        start = time.process_time()
        state["step"] = train_for(settings, state["seconds"], state["step"], step)
        state["seconds"] += time.process_time() - start
        return {"step": state["step"], "seconds": state["seconds"], "bits_per_dim": score()}

    return run


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[2]))
    serve({"train_step": _train_step, "evaluation": _evaluation, "learning": _learning})
