__version__ = "1.1.1"

from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # noqa: F401
from mamba_ssm.modules.mamba_simple import Mamba  # noqa: F401
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn_no_out_proj  # noqa: F401
