"""What `vssm COMMAND --help` ends with."""

EXAMPLES = {
    "erf": (
        "vssm erf --model vmamba_nano resnet_nano --images photos/ --position 0.3,0.6 --out out",
        "vssm erf --model vim_tiny --weights official --size 224 --split direction --open",
    ),
    "scan-maps": ("vssm scan-maps --model vmamba_nano --images cat.jpg --layer 2 --query 0.5,0.5",),
    "atlas": ("vssm atlas --model vmamba_nano vim_nano --images photos/ --queries 4 --out out",),
    "state": ("vssm state --model vim_nano --images cat.jpg --query 0.3,0.5 --out out",),
    "decompose": ("vssm decompose --model vmamba_nano --images cat.jpg --query 0.5,0.5 --out out",),
    "attribution": ("vssm attribution --model vim_nano --images cat.jpg --method rollout",),
    "tokens": ("vssm tokens --model vim_nano vmamba_nano --images photos/ --mad 5 --out out",),
    "objects": ("vssm objects --model vim_nano --images samples --maps erf,grad-cam --out out",),
    "resolution": ("vssm resolution --model vmamba_nano vim_nano --sizes 64 128 224",),
    "robustness": ("vssm robustness --model vmamba_nano --data PACK.npz --attacks pgd,autoattack",),
    "sensitivity": ("vssm sensitivity --model vmamba_nano --quick",),
    "quantize": ("vssm quantize --model vmamba_nano --bits 8,6,4,3 --granularities token",),
    "models": ("vssm models mamba", "vssm models 'convnext*_tiny' --json"),
    "paths": ("vssm paths 'hilbert*' --grid 14,14 --draw paths.pdf",),
    "train": ("vssm train --model vmamba_nano --data PACK.npz --epochs 24 --out out/train",),
    "evaluate": ("vssm evaluate --model vmamba_nano vim_nano --images PACK.npz --size 64 128",),
    "pack": ("vssm pack photos/ PACK.npz --size 224", "vssm pack photos/ PACK.npz --labels my.csv"),
    "figures": ("vssm figures analyses/configs/gallery.yaml --out out/figures",),
    "show": ("vssm show out", "vssm show out/erf-vmamba_nano-*.npz --out again --open"),
    "export": (
        "vssm export out/erf-*.npz --html fields.html",
        "vssm export vim_nano-epoch-0.npz vim_nano-end.npz --gif training.gif",
    ),
    "warm": ("vssm warm --dtypes float32,bfloat16",),
    "app": ("vssm app --weights checkpoints/ --results out",),
    "completion": ("vssm completion bash > ~/.local/share/bash-completion/completions/vssm",),
}
"""Command -> lines that can be typed."""
