"""Zero-cost proxies, which give every site a score. Each lives in the file of its name."""

from heterolora.proxies.base import Proxy
from heterolora.proxies.constant import Constant
from heterolora.proxies.depth import Depth
from heterolora.proxies.eva import Eva
from heterolora.proxies.fisher import Fisher
from heterolora.proxies.gora import Gora
from heterolora.proxies.gradnorm import GradNorm
from heterolora.proxies.gradnorm_l1 import GradNormL1
from heterolora.proxies.gradsvd import GradSvd
from heterolora.proxies.role import Role
from heterolora.proxies.sensitivity import Sensitivity
from heterolora.proxies.snip import Snip
from heterolora.proxies.spaced import Spaced
from heterolora.proxies.synflow import SynFlow

__all__ = [
    "Constant",
    "Depth",
    "Eva",
    "Fisher",
    "Gora",
    "GradNorm",
    "GradNormL1",
    "GradSvd",
    "Proxy",
    "Role",
    "Sensitivity",
    "Snip",
    "Spaced",
    "SynFlow",
]
