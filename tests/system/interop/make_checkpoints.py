"""Creates checkpoints for tests/interop with the published code, and the results of this code for them.

    python tests/system/interop/make_checkpoints.py --published_dir=CHECKOUT

Requires PyTorch and a checkout of https://github.com/rtqichen/residual-flows (the fixtures are from commit
8170138). The tests need neither. Each checkpoint is a tiny model after three training steps on random images. It is
saved as in train_img.py, after a validation, which leaves u and v at the averaged weights. Without the published
code, examples/published_to_npz.py converts the .pth file to the file in checkpoints/. The file of the same name in
results/ contains, for the weights ("raw") and for their average ("ema"): the latent y, the exact log-determinant
from a dense Jacobian in float64, bits/dim, and the logits of hybrid models.
"""

import argparse
import copy
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

ROOT = pathlib.Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "published_to_npz.py"
DEFAULTS = {
    "data": "cifar10", "dataroot": "data", "imagesize": 8, "nbits": 8, "block": "resblock", "coeff": 0.98,
    "vnorms": "2222", "n_lipschitz_iters": None, "sn_tol": 1e-3, "learn_p": False, "n_power_series": None,
    "factor_out": False, "n_dist": "poisson", "n_samples": 1, "n_exact_terms": 2, "var_reduc_lr": 0,
    "neumann_grad": True, "mem_eff": True, "act": "swish", "idim": 2, "nblocks": "1-1", "squeeze_first": False,
    "actnorm": True, "fc_actnorm": False, "batchnorm": False, "dropout": 0.0, "fc": False, "kernels": "3-1-3",
    "logit_transform": True, "add_noise": True, "quadratic": False, "fc_end": False, "fc_idim": 2,
    "preact": True, "padding": 0, "first_resblock": True, "cdim": 2, "optimizer": "adam", "scheduler": False,
    "nepochs": 1000, "batchsize": 64, "lr": 1e-3, "wd": 0, "warmup_iters": 1000, "annealing_iters": 0,
    "save": "experiment1", "val_batchsize": 200, "seed": 5, "ema_val": True, "update_freq": 1,
    "task": "density", "scale_dim": False, "rcrop_pad_mode": "reflect", "padding_dist": "uniform",
    "resume": None, "begin_epoch": 0, "nworkers": 4, "print_freq": 20, "vis_freq": 500,
}  # fmt: skip
CASES = {
    "mnist": {"data": "mnist", "fc_end": True},
    "cifar10": {"data": "cifar10", "actnorm": False},
    "celebahq": {
        "data": "celebahq", "imagesize": 16, "nbits": 5, "act": "elu", "squeeze_first": True, "factor_out": True,
        "n_exact_terms": 8, "batchsize": 8, "nblocks": "1-1-1",
    },
    "factor_out": {
        "data": "mnist", "imagesize": 16, "factor_out": True, "nblocks": "1-1-1", "sn_tol": 1.0,
    },
    "learned_norms": {"data": "mnist", "learn_p": True},
    "mixed_norms": {"data": "mnist", "vnorms": "122f"},
    "hybrid": {"data": "cifar10", "task": "hybrid"},
}  # fmt: skip


def image_shape(args, num):
    return num, 1 if args.data == "mnist" else 3, args.imagesize, args.imagesize


def build(args):
    from resflows import layers
    from resflows.resflow import ResidualFlow

    hybrid, size = args.task == "hybrid", image_shape(args, args.batchsize)
    if args.squeeze_first:
        size = (size[0], size[1] * 4, size[2] // 2, size[3] // 2)
    normalize = layers.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    logit = layers.LogitTransform(1e-6 if args.data == "mnist" else 0.05)
    same = (
        "factor_out quadratic actnorm fc_actnorm batchnorm dropout fc coeff vnorms n_lipschitz_iters "
        "n_power_series n_dist n_samples kernels fc_end fc_idim n_exact_terms preact neumann_grad "
        "first_resblock learn_p"
    )
    options = {name: getattr(args, name) for name in same.split()}
    options |= {"n_blocks": [int(count) for count in args.nblocks.split("-")], "intermediate_dim": args.idim}
    options |= {"init_layer": normalize if hybrid else logit, "sn_atol": args.sn_tol, "sn_rtol": args.sn_tol}
    options |= {"activation_fn": args.act, "grad_in_forward": args.mem_eff, "block_type": args.block}
    options |= {"classification": hybrid, "classification_hdim": args.cdim, "n_classes": 10 if hybrid else 1}
    return ResidualFlow(size, **options)


def squeezed(args, x):
    from resflows import layers

    return layers.SqueezeLayer(2)(x) if args.squeeze_first else x


def levels(args):
    return 2**args.nbits if args.data == "celebahq" else 256


def train(args, model, ema, generator):
    """Takes three training steps, starting from weights that differ strongly from the initial weights."""
    from resflows.optimizers import Adam

    def images():
        return squeezed(args, torch.rand(image_shape(args, 8), generator=generator))

    model.train()
    model(images(), torch.zeros(8, 1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("beta"):
                parameter.add_(0.5 * noise)
            elif "domain" in name:
                parameter.add_(0.3 * noise)
            elif name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(3.0)  # makes the constraint active
            elif not name.endswith(("geom_p", "lamb")):
                parameter.add_(0.2 * noise)
    optimizer = Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99))
    for _ in range(3):
        update_norms(model)
        if args.task == "hybrid":
            (y, delta), logits = model(images(), torch.zeros(8, 1), classify=True)
            extra = torch.nn.functional.cross_entropy(logits, torch.arange(8))
        else:
            y, delta = model(images(), torch.zeros(8, 1))
            extra = 0.0
        loss = (0.5 * y.view(8, -1) ** 2).sum(1).mean() + delta.mean() + extra
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.apply()
    ema.swap()
    update_norms(model)  # as before a validation; the swap back does not restore u and v
    ema.swap()
    return optimizer


def update_norms(model):
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "compute_one_iter"):
                module.compute_weight(update=True)


def results(args, model, x):
    """Returns the latent in float32, and the exact log-determinant and bits/dim in float64."""
    model.eval()
    out = {}
    with torch.no_grad():
        out["y"] = model(squeezed(args, x)).reshape(len(x), -1).numpy()
        if args.task == "hybrid":
            out["logits"] = model(squeezed(args, x), classify=True)[1].numpy()
    exact = copy.deepcopy(model).double()

    def latent(image):
        return exact(squeezed(args, image[None])).reshape(-1)

    log_dets = []
    for image in x.double():
        jacobian = torch.autograd.functional.jacobian(latent, image)
        log_dets.append(torch.linalg.slogdet(jacobian.reshape(image.numel(), -1))[1].item())
    out["log_det"] = np.array(log_dets)
    y, size = out["y"].astype(np.float64), out["y"].shape[1]
    log_prob = -0.5 * (y**2 + math.log(2 * math.pi)).sum(1) + out["log_det"] - size * math.log(levels(args))
    out["bits_per_dim"] = -log_prob / (size * math.log(2))
    return out


def make(name, changes, folder):
    from resflows.utils import ExponentialMovingAverage

    args = argparse.Namespace(**(DEFAULTS | changes))
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = build(args)
    ema = ExponentialMovingAverage(model)
    optimizer = train(args, model, ema, generator)
    ema.module = None
    checkpoint = {"state_dict": model.state_dict(), "args": args, "ema": ema, "test_bpd": 4.5}
    if name == "cifar10":
        checkpoint["optimizer_state_dict"] = optimizer.state_dict()
    converted = folder / "checkpoints" / f"{name}.npz"
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / f"{name}.pth"
        torch.save(checkpoint, path)
        subprocess.run([sys.executable, SCRIPT, path, converted], check=True)
    shape = image_shape(args, 1 if name == "celebahq" else 2)
    noise = torch.rand(shape, generator=generator).clamp(0.01, 0.99)
    x = (torch.randint(levels(args), shape, generator=generator) + noise) / levels(args)
    arrays, ema.module = {"x": x.numpy()}, model
    for kind in ("raw", "ema"):
        arrays |= {f"{kind}_{key}": value for key, value in results(args, model, x).items()}
        ema.swap()
    np.savez_compressed(folder / "results" / f"{name}.npz", **arrays)
    print(f"{name}: {converted.stat().st_size:,} bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--published_dir", required=True, help="Folder with a checkout of the published code.")
    parser.add_argument("--output_dir", type=pathlib.Path, default=ROOT / "tests" / "interop")
    flags = parser.parse_args()
    sys.path.insert(0, flags.published_dir)
    for name in ("checkpoints", "results"):
        (flags.output_dir / name).mkdir(parents=True, exist_ok=True)
    for name, changes in CASES.items():
        make(name, changes, flags.output_dir)


if __name__ == "__main__":
    main()
