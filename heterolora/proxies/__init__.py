"""Zero-cost proxies: one score for every site. Each lives in the file of its name."""

from heterolora.proxies.base import Proxy
from heterolora.proxies.constant import Constant
from heterolora.proxies.gradnorm import GradNorm
from heterolora.proxies.gradsvd import GradSvd
from heterolora.proxies.snip import Snip
from heterolora.proxies.synflow import SynFlow

__all__ = ["Constant", "GradNorm", "GradSvd", "Proxy", "Snip", "SynFlow"]
