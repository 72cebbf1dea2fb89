"""Memory of the scans under attack: its half-life and the spectral radius of the decay."""

import torch
from torch import Tensor

from workbench.methods.sensitivity.subject import Case, by_scan
from workbench.mixing.statistics import token_statistics

MEASURES = ("horizon", "log_radius")


def measure(case: Case) -> dict[str, Tensor]:
    """`horizon` (b, 2, sites, 2): of the clean and the adversarial run, the median over steps of
    the memory horizon ln 2 / (delta |A|) in steps, and the mean over channels and steps of
    log rho = max_n delta A_n, the logarithm of the decay's spectral radius (<= 0; 0 forgets
    nothing)."""
    runs = []
    for run in (case.clean, case.attacked):
        sites = [by_scan(run[site.name]) for site in case.subject.sites]
        halves = [token_statistics(tensors)["horizon"] for tensors in sites]
        halves = [steps.view(len(case.x), -1).median(dim=1).values for steps in halves]
        radii = [t["delta"] * t["A"].amax(dim=1)[:, None] for t in sites]
        radii = [case.mean(steps) for steps in radii]
        both = [torch.stack(halves, dim=1), torch.stack(radii, dim=1)]
        runs.append(torch.stack(both, dim=2))
    return {"horizon": torch.stack(runs, dim=1)}
